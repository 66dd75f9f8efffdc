//! The servers there are now, in the order of their file, and when that changes.

use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::Server;

/// A server and its name.
#[derive(Clone, Debug)]
pub struct Member {
    /// As in URLs and before the names of its tools.
    pub name: Arc<str>,
    /// With all that stands in front of it.
    pub server: Arc<dyn Server>,
}

/// The servers there are now.
#[derive(Debug)]
pub struct Set {
    members: RwLock<Arc<[Member]>>,
    version: watch::Sender<u64>,
}

impl Default for Set {
    fn default() -> Self {
        Self { members: RwLock::new(Arc::default()), version: watch::Sender::new(0) }
    }
}

impl Set {
    /// All of them.
    pub fn members(&self) -> Arc<[Member]> {
        self.members.read().clone()
    }

    /// The one with this name.
    pub fn member(&self, name: &str) -> Option<Member> {
        self.members.read().iter().find(|member| &*member.name == name).cloned()
    }

    /// From now on there are these.
    pub fn replace(&self, members: Vec<Member>) {
        *self.members.write() = members.into();
        self.version.send_modify(|version| *version += 1);
    }

    /// Tells of changes from now on.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}
