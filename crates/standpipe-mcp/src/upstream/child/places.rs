//! How many processes there are: in all, and for one principal. A place is a value, given back by dropping it.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use standpipe_serve::LimitsHandle;

use super::process::Process;
use crate::{Fault, Metrics};

/// When a place may be free again.
const RETRY: Duration = Duration::from_secs(1);

/// Places of processes.
#[derive(Debug)]
pub(super) struct Places {
    limits: LimitsHandle,
    metrics: Metrics,
    taken: Mutex<Taken>,
    processes: Mutex<Vec<Weak<Process>>>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    of_principal: BTreeMap<Arc<str>, usize>,
}

/// The place of a process. It may be shared by those that follow each other in it.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    principal: Mutex<Option<Arc<str>>>,
}

impl Places {
    pub(super) fn new(limits: LimitsHandle, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { limits, metrics, taken: Mutex::default(), processes: Mutex::default() })
    }

    /// A process has come.
    pub(super) fn add(&self, process: &Arc<Process>) {
        let mut processes = self.processes.lock();
        processes.retain(|process| process.strong_count() > 0);
        processes.push(Arc::downgrade(process));
    }

    /// Ends the process that has had nothing to do for the longest time, if there is one: who comes again finds its place.
    fn make_room(&self) {
        let processes: Vec<_> = self.processes.lock().iter().filter_map(Weak::upgrade).collect();
        let idle = processes.iter().filter_map(|process| Some((process.idle_since()?, process)));
        if let Some((_, process)) = idle.min_by_key(|(since, _)| *since) {
            tracing::debug!(server = %process.name, pid = process.pid(), "ended to make room for another one");
            process.end();
        }
    }

    /// A place for a process that serves `principal` only, or everybody.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn take(self: &Arc<Self>, principal: Option<&Arc<str>>) -> Result<Arc<Place>, Fault> {
        let most = self.limits.load().mcp_children_max;
        {
            let mut taken = self.taken.lock();
            if taken.all >= most {
                drop(taken);
                self.make_room();
                self.metrics.hit("mcp_children_max");
                let message = format!("{most} processes run already (mcp_children_max): try again when one has ended");
                return Err(Fault::overloaded(message, RETRY));
            }
            taken.all += 1;
        }
        let place = Arc::new(Place { places: self.clone(), principal: Mutex::new(None) });
        match principal {
            Some(principal) => place.count_for(principal).map(|()| place),
            None => Ok(place),
        }
    }
}

impl Place {
    /// From now on it counts as one of this principal's.
    ///
    /// # Errors
    /// It has as many as it may have.
    pub(super) fn count_for(&self, principal: &Arc<str>) -> Result<(), Fault> {
        let most = self.places.limits.load().mcp_children_per_principal_max;
        {
            let mut taken = self.places.taken.lock();
            let count = taken.of_principal.entry(principal.clone()).or_default();
            if *count < most {
                *count += 1;
                *self.principal.lock() = Some(principal.clone());
                return Ok(());
            }
        }
        self.places.metrics.hit("mcp_children_per_principal_max");
        let message =
            format!("{most} processes run for you already (mcp_children_per_principal_max): end one of your sessions");
        Err(Fault::overloaded(message, RETRY))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        taken.all -= 1;
        if let Some(principal) = self.principal.get_mut().take()
            && let Some(count) = taken.of_principal.get_mut(&principal)
        {
            *count -= 1;
            if *count == 0 {
                taken.of_principal.remove(&principal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use arc_swap::ArcSwap;
    use standpipe_serve::Limits;

    use super::*;

    #[test]
    fn places_are_counted_and_given_back() {
        let limits = Limits { mcp_children_max: 3, mcp_children_per_principal_max: 2, ..Limits::default() };
        let places = Places::new(Arc::new(ArcSwap::from_pointee(limits)), Metrics::default());
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let first = places.take(Some(&a)).unwrap();
        let _second = places.take(Some(&a)).unwrap();
        assert!(places.take(Some(&a)).unwrap_err().message.contains("per_principal"));
        let third = places.take(None).unwrap();
        assert!(places.take(Some(&b)).unwrap_err().message.contains("mcp_children_max"));
        assert!(third.count_for(&a).is_err() && third.count_for(&b).is_ok());
        drop(first);
        let _fourth = places.take(Some(&a)).unwrap();
        drop(third);
        assert_eq!(places.taken.lock().all, 2);
        assert_eq!(places.taken.lock().of_principal.len(), 1);
    }
}
