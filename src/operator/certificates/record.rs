//! The record of the CA's certificate, from which an operator knows it after the loss of the Secret.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};

use crate::api::labels::{MANAGED_BY_LABEL, MANAGER};
use crate::mesh::identity::CERTIFICATE_LIFETIME;
use crate::operator::call::{CallError, call};

/// Name of the ConfigMap in the operator's namespace.
pub(super) const CA_RECORD: &str = "venom-mesh-ca-record";
/// The CA's certificate.
const CURRENT: &str = "ca.pem";
/// Those of earlier CAs.
const PREVIOUS: &str = "previous.pem";
/// Until when they are trusted, in seconds since 1970.
const UNTIL: &str = "previous-until";

/// Earlier CAs that are still trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Previous {
    /// Their certificates in PEM form.
    pub(super) pem: String,
    /// When the last certificate that they have signed has ended.
    pub(super) until: SystemTime,
}

/// Records `current` as the CA's certificate. Returns the earlier ones that are still trusted.
pub(super) async fn update(
    client: Client,
    namespace: &str,
    current: &str,
) -> Result<Option<Previous>, CallError> {
    let maps: Api<ConfigMap> = Api::namespaced(client, namespace);
    let object = format!("ConfigMap {namespace}/{CA_RECORD}");
    loop {
        let found = call("get", &object, maps.get_opt(CA_RECORD)).await?;
        let data = found.as_ref().and_then(|it| it.data.clone()).unwrap_or_default();
        let (next, previous) = next(&data, current, SystemTime::now());
        if next == data {
            return Ok(previous);
        }
        let labels = [(MANAGED_BY_LABEL, MANAGER), ("app.kubernetes.io/part-of", MANAGER)];
        let metadata = ObjectMeta {
            name: Some(CA_RECORD.into()),
            labels: Some(labels.into_iter().map(|(name, value)| (name.into(), value.into())).collect()),
            resource_version: found.as_ref().and_then(ResourceExt::resource_version),
            ..ObjectMeta::default()
        };
        let record = ConfigMap { metadata, data: Some(next), ..ConfigMap::default() };
        let params = PostParams::default();
        let written = match found {
            Some(_) => call("update", &object, maps.replace(CA_RECORD, &params, &record)).await,
            None => call("create", &object, maps.create(&params, &record)).await,
        };
        match written {
            Ok(_) => return Ok(previous),
            // Another operator has written it in the meantime.
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error),
        }
    }
}

/// The record after `data` for a CA with this certificate, and the earlier CAs that are still trusted then.
fn next(
    data: &BTreeMap<String, String>,
    current: &str,
    now: SystemTime,
) -> (BTreeMap<String, String>, Option<Previous>) {
    let until = data.get(UNTIL).and_then(|it| it.parse().ok()).map(Duration::from_secs);
    let mut previous = data
        .get(PREVIOUS)
        .zip(until)
        .map(|(pem, until)| Previous { pem: pem.clone(), until: SystemTime::UNIX_EPOCH + until })
        .filter(|it| now < it.until);
    if let Some(recorded) = data.get(CURRENT).filter(|it| *it != current) {
        let earlier = previous.map(|it| it.pem).unwrap_or_default().replace(current, "");
        let since_epoch = (now + CERTIFICATE_LIFETIME).duration_since(SystemTime::UNIX_EPOCH);
        // Whole seconds, as they are recorded.
        let until = Duration::from_secs(since_epoch.unwrap_or_default().as_secs());
        previous = Some(Previous {
            pem: format!("{}\n{earlier}", recorded.trim_end()),
            until: SystemTime::UNIX_EPOCH + until,
        });
    }
    let mut next = BTreeMap::from([(CURRENT.to_owned(), current.to_owned())]);
    if let Some(previous) = &previous {
        let until = previous.until.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        next.insert(PREVIOUS.into(), previous.pem.clone());
        next.insert(UNTIL.into(), until.as_secs().to_string());
    }
    (next, previous)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_ca_is_trusted_for_a_day() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let (first, none) = next(&BTreeMap::new(), "a\n", now);
        assert_eq!((first.len(), none), (1, None));
        assert_eq!(next(&first, "a\n", now), (first.clone(), None));

        let until = now + CERTIFICATE_LIFETIME;
        let a = Previous { pem: "a\n".into(), until };
        let (second, previous) = next(&first, "b\n", now);
        assert_eq!(previous, Some(a.clone()));
        let hour = Duration::from_secs(3600);
        assert_eq!(next(&second, "b\n", now + hour), (second.clone(), Some(a)), "a restart changes nothing");
        // Lost once more.
        let (_, both) = next(&second, "c\n", now + hour);
        assert_eq!(both, Some(Previous { pem: "b\na\n".into(), until: until + hour }));
        // The first one is restored from a backup.
        let (_, back) = next(&second, "a\n", now + hour);
        assert_eq!(back, Some(Previous { pem: "b\n".into(), until: until + hour }));
        assert_eq!(next(&second, "b\n", until), (next(&BTreeMap::new(), "b\n", now).0, None));
    }
}
