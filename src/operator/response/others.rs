//! Keeping objects of others as a response asks for, and looking whether pods are isolated.

use std::time::Duration;

use kube::ResourceExt;
use kube::core::DynamicObject;
use tokio::time::Instant;

use super::surroundings::{ChangeError, Changed, Look};
use super::target::Target;
use super::{Responder, Seen, autoscalers, services};
use crate::api::{Organism, ServicesPolicy};
use crate::operator::body::index::FIELD_MANAGER;
use crate::operator::measures::Measures;
use crate::operator::publisher::body::BodyFault;
use crate::operator::publisher::response::Quarantine;

/// What is in force is looked at again after this wait.
pub(super) const LOOK: Duration = Duration::from_secs(5);
/// What was found is not said any more when nothing could be looked at for this long.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(15);
/// An object that others change back is left to them after so many writes.
const TRIES: u32 = 2;

/// What was done to objects of others.
#[derive(Debug, Default)]
pub(super) struct Others {
    /// One text for each that is changed.
    pub(super) changed: Vec<String>,
    /// One text for each that is restored.
    pub(super) restored: Vec<String>,
    /// What still lets traffic through where pods are isolated, one text an object.
    pub(super) open: Vec<String>,
}

impl Responder {
    /// Looks at what may let traffic through, changes what is not as it should be, and returns what to say.
    pub(super) async fn look(&mut self, organism: &Organism, seen: &Seen, measures: &Measures) -> Quarantine {
        match self.change_others(organism, seen, measures).await {
            Ok(others) => self.found(others.open),
            Err(why) => {
                self.resources.metrics.api_error("response");
                match &self.looked {
                    Some((at, found)) if at.elapsed() < FORGOTTEN_AFTER => found.clone(),
                    _ => Quarantine::Unverified(why),
                }
            }
        }
    }

    /// What to say where pods are isolated, except for what is `open`.
    pub(super) fn found(&mut self, mut open: Vec<String>) -> Quarantine {
        if let Some(body) = &self.reports.borrow().body {
            let contested = body.faults.iter().filter(|it| matches!(it, BodyFault::Contested(_)));
            open.extend(contested.map(BodyFault::message));
        }
        let found = if open.is_empty() { Quarantine::Isolated } else { Quarantine::PartiallyIsolated(open) };
        self.looked = Some((Instant::now(), found.clone()));
        found
    }

    /// Makes the objects of others as `measures` ask for. Returns what is changed of them, and what is open where pods
    /// are isolated; what was restored is kept.
    pub(super) async fn change_others(
        &mut self,
        organism: &Organism,
        seen: &Seen,
        measures: &Measures,
    ) -> Result<Others, String> {
        self.left.clear();
        let mut others = Others::default();
        if measures.isolated {
            let Some(target) = &seen.target else { return Err("the body has no workload".to_owned()) };
            let Look { mut services, mut stray, open } =
                self.surroundings.look(target).await.map_err(|error| error.to_string())?;
            if organism.spec.response.services == ServicesPolicy::Keep {
                stray.extend(services.extract_if(.., |it| services::changed_by(it) == organism.metadata.uid));
            }
            let (detached, left) = self.detach(organism, target, services).await?;
            self.restore(Changed::Service, stray).await?;
            (others.changed, others.open) = (detached, open);
            others.open.extend(left);
        } else if self.finalizer {
            self.restore_all(Changed::Service).await?;
        }
        let limits = seen.changes_others() && *measures != Measures::default();
        if let Some(target) = seen.target.as_ref().filter(|_| limits) {
            let (limited, left) = self.limit_autoscalers(organism, target, measures).await?;
            others.changed.extend(limited);
            // Where pods are isolated the condition says it.
            let kept = if measures.isolated { &mut others.open } else { &mut self.left };
            kept.extend(left);
        } else if self.finalizer {
            self.restore_all(Changed::HorizontalPodAutoscaler).await?;
        }
        Ok(others)
    }

    /// What would be done to objects of others, where decisions are only recorded.
    pub(super) async fn foretell(&self, organism: &Organism, seen: &Seen, measures: &Measures) -> Others {
        let Some(target) = &seen.target else { return Others::default() };
        let mut changed = vec![];
        if measures.isolated
            && organism.spec.response.services == ServicesPolicy::Detach
            && let Ok(look) = self.surroundings.look(target).await
        {
            changed.extend(look.services.iter().map(|it| detached(&it.name_any())));
        }
        if target.adopted
            && let Ok((handed_over, _)) = self.surroundings.autoscalers(target).await
        {
            let aim = organism.spec.autoscaling.target_cpu_utilization;
            let uid = organism.metadata.uid.as_deref().unwrap_or_default();
            let limited = handed_over.iter().map(|it| (it, autoscalers::limited(it, measures, aim, uid)));
            let limited = limited.filter(|(before, after)| *before != after);
            changed.extend(limited.map(|(_, after)| autoscalers::what(&after, measures)));
        }
        Others { changed, ..Others::default() }
    }

    async fn restore(&mut self, kind: Changed, objects: Vec<DynamicObject>) -> Result<(), String> {
        let hold = self.connections.hold.clone();
        let restored = self.surroundings.restore(kind, objects, Some(&hold)).await;
        self.restored.extend(restored.map_err(|error| error.to_string())?);
        Ok(())
    }

    /// Restores everything of this kind that this Organism has changed.
    async fn restore_all(&mut self, kind: Changed) -> Result<(), String> {
        let hold = self.connections.hold.clone();
        let restored = self.surroundings.restore_all(&[kind], Some(&hold)).await;
        self.restored.extend(restored.map_err(|error| error.to_string())?);
        Ok(())
    }

    /// Detaches these Services. Returns what is detached, and what is left open.
    async fn detach(
        &mut self,
        organism: &Organism,
        target: &Target,
        found: Vec<DynamicObject>,
    ) -> Result<(Vec<String>, Vec<String>), String> {
        let (mut done, mut open) = (vec![], vec![]);
        if organism.spec.response.services == ServicesPolicy::Keep {
            return Ok((done, open));
        }
        let uid = organism.metadata.uid.as_deref().unwrap_or_default();
        for service in found {
            let name = service.name_any();
            if services::is_detached(&service) && services::changed_by(&service).as_deref() == Some(uid) {
                done.push(detached(&name));
                continue;
            }
            let shared = self.surroundings.is_shared(&service, target).await;
            if shared.map_err(|error| error.to_string())? {
                open.push(format!("Service {name} also selects pods of others, and is left as it is"));
                continue;
            }
            match self.try_change(Changed::Service, &service, &services::detach(&service, uid)).await? {
                Tried::Changed => done.push(detached(&name)),
                Tried::Gone => {}
                Tried::Left(manager) => open.push(format!(
                    "Service {name}: {manager} has changed its selector back; it is left until the next decision"
                )),
            }
        }
        Ok((done, open))
    }

    /// Limits the autoscalers that were handed over with the workload. Returns what is limited, and what is left.
    async fn limit_autoscalers(
        &mut self,
        organism: &Organism,
        target: &Target,
        measures: &Measures,
    ) -> Result<(Vec<String>, Vec<String>), String> {
        if !target.adopted {
            return Ok((vec![], vec![]));
        }
        let (mut done, mut left) = (vec![], vec![]);
        let found = self.surroundings.autoscalers(target).await;
        let (handed_over, stray) = found.map_err(|error| error.to_string())?;
        let kind = Changed::HorizontalPodAutoscaler;
        self.restore(kind, stray).await?;
        let aim = organism.spec.autoscaling.target_cpu_utilization;
        let uid = organism.metadata.uid.as_deref().unwrap_or_default();
        for autoscaler in handed_over {
            let name = autoscaler.name_any();
            let limited = autoscalers::limited(&autoscaler, measures, aim, uid);
            let is_limited = autoscalers::is_limited_by(&limited, uid);
            if limited == autoscaler {
                if is_limited {
                    done.push(autoscalers::what(&limited, measures));
                }
                continue;
            }
            if !is_limited {
                self.restore(kind, vec![autoscaler]).await?;
                continue;
            }
            match self.try_change(kind, &autoscaler, &limited).await? {
                Tried::Changed => done.push(autoscalers::what(&limited, measures)),
                Tried::Gone => {}
                Tried::Left(manager) => left.push(format!(
                    "HorizontalPodAutoscaler {name}: {manager} has changed it back; it is left until the next decision"
                )),
            }
        }
        Ok((done, left))
    }

    /// Changes an object of somebody else, unless it was changed back too often.
    async fn try_change(
        &mut self,
        kind: Changed,
        before: &DynamicObject,
        after: &DynamicObject,
    ) -> Result<Tried, String> {
        let object = kind.named(&before.name_any());
        if self.tries.get(&object).is_some_and(|tries| *tries >= TRIES) {
            let manager = kind.last_manager(before, FIELD_MANAGER);
            return Ok(Tried::Left(
                manager.map_or_else(|| "somebody".to_owned(), |it| format!("field manager {it}")),
            ));
        }
        self.set_finalizer(true).await?;
        let hold = self.connections.hold.clone();
        match self.surroundings.change(kind, after, Some(&hold)).await {
            Ok(()) => {}
            // It is gone, and with it what it let through.
            Err(ChangeError::Call(error)) if error.is_not_found() => return Ok(Tried::Gone),
            Err(error) => return Err(error.to_string()),
        }
        *self.tries.entry(object).or_default() += 1;
        Ok(Tried::Changed)
    }
}

/// What became of a change.
enum Tried {
    Changed,
    Gone,
    /// Others have changed it back: this field manager.
    Left(String),
}

fn detached(service: &str) -> String {
    format!("Service {service} selects no pod")
}
