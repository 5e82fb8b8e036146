use super::*;

fn certificates() -> Certificates {
    Certificates::new(Authority::new(TRUST_DOMAIN, SystemTime::now()).unwrap())
}

#[test]
fn authority_round_trips_through_its_secret() {
    let first = certificates();
    let secret = ca_secret(&first.authority);
    let second = Certificates::new(parse_authority(&secret).unwrap());
    assert_eq!(second.ca_pem(), first.ca_pem());
    let (key, request) = generate_key_and_csr().unwrap();
    let pod = Identity::pod(TRUST_DOMAIN, "1-2", "3-4").unwrap();
    let signed = second.sign(&request, &pod).unwrap();
    assert_eq!(Credentials::from_pem(&first.ca_pem(), &signed, &key, None).unwrap().identity, pod);
}

#[test]
fn invalid_secret_is_rejected_with_a_reason() {
    let valid = ca_secret(&certificates().authority);
    let error_with = |name: &str, bytes: Option<&[u8]>| {
        let mut secret = valid.clone();
        let data = secret.data.as_mut().unwrap();
        match bytes {
            Some(bytes) => data.insert(name.into(), ByteString(bytes.into())),
            None => data.remove(name),
        };
        parse_authority(&secret).err().unwrap()
    };
    assert_eq!(error_with(KEY, None), "it has no key ca.key");
    assert_eq!(error_with(CERTIFICATE, Some(&[0xff])), "ca.pem is not UTF-8");
    assert_ne!(error_with(CERTIFICATE, Some(b"nothing")), "");
    let other = certificates().authority.key_pem();
    assert_eq!(error_with(KEY, Some(other.as_bytes())), "the private key does not match the certificate");
    assert!(parse_authority(&Secret::default()).is_err());
}

/// One certificate serves all organisms. A new one is issued by the time of renewal, and after the clock was set back.
#[test]
fn operator_certificate_is_shared_and_renewed() {
    let certificates = certificates();
    let now = SystemTime::now();
    let first = certificates.operator_credentials_at(now, "uid-a").unwrap();
    assert_eq!(first.identity.to_string(), "spiffe://venom/operator");
    assert_eq!(first.organism, "uid-a");
    let second = certificates.operator_credentials_at(now + REUSE_PERIOD / 2, "uid-b").unwrap();
    assert_eq!((second.organism.as_str(), second.not_after), ("uid-b", first.not_after));
    let third = certificates.operator_credentials_at(first.renew_at(), "uid-a").unwrap();
    assert!(third.not_after > first.not_after);
    let fourth = certificates.operator_credentials_at(now - CERTIFICATE_LIFETIME, "uid-a").unwrap();
    assert!(fourth.not_after < first.not_after);
}
