use super::*;

fn certificates() -> Certificates {
    Certificates::new(Authority::new(TRUST_DOMAIN, SystemTime::now()).unwrap())
}

#[test]
fn an_authority_comes_back_from_its_secret() {
    let first = certificates();
    let secret = secret(&first.authority);
    let second = Certificates::new(read(&secret).unwrap());
    assert_eq!(second.ca_pem(), first.ca_pem());
    let (key, request) = generate_key_and_csr().unwrap();
    let pod = Identity::pod(TRUST_DOMAIN, "1-2", "3-4").unwrap();
    let signed = second.sign(&request, &pod).unwrap();
    assert_eq!(Credentials::from_pem(first.ca_pem(), &signed, &key, None).unwrap().identity, pod);
}

#[test]
fn what_is_no_authority_is_said_to_be_none() {
    let whole = secret(&certificates().authority);
    let with = |name: &str, bytes: Option<&[u8]>| {
        let mut secret = whole.clone();
        let data = secret.data.as_mut().unwrap();
        match bytes {
            Some(bytes) => data.insert(name.into(), ByteString(bytes.into())),
            None => data.remove(name),
        };
        read(&secret).err().unwrap()
    };
    assert_eq!(with(KEY, None), "it has no ca.key");
    assert_eq!(with(CERTIFICATE, Some(&[0xff])), "ca.pem is no text");
    assert_ne!(with(CERTIFICATE, Some(b"nothing")), "");
    let other = certificates().authority.key_pem();
    assert_eq!(with(KEY, Some(other.as_bytes())), "the private key does not match the certificate");
    assert!(read(&Secret::default()).is_err());
}

/// One certificate for all organisms; a new one before anybody has to ask for it, and after the clock was set back.
#[test]
fn the_operators_certificate_is_shared_and_renewed() {
    let certificates = certificates();
    let now = SystemTime::now();
    let first = certificates.operator_at(now, "uid-a").unwrap();
    assert_eq!(first.identity.to_string(), "spiffe://venom/operator");
    assert_eq!(first.organism, "uid-a");
    let second = certificates.operator_at(now + HANDED_OUT / 2, "uid-b").unwrap();
    assert_eq!((second.organism.as_str(), second.not_after), ("uid-b", first.not_after));
    let third = certificates.operator_at(first.renew_at(), "uid-a").unwrap();
    assert!(third.not_after > first.not_after);
    let fourth = certificates.operator_at(now - CERTIFICATE_LIFETIME, "uid-a").unwrap();
    assert!(fourth.not_after < first.not_after);
}
