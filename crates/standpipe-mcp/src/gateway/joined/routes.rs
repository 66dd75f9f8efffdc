//! Which server has a resource: the one that lists its URI, else the one with a template that fits. What has been listed is
//! remembered for each principal; a URI that is not known has the lists read again, once in a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use standpipe_wire::jsonrpc::Message;
use tokio::time::Instant;

use super::gather::Gathered;
use super::{Joined, Kind, Member, RESOURCES, ROUTES_MAX, TEMPLATES};
use crate::Caller;
use crate::gateway::filter::matches_parts;

/// URIs that are remembered for one principal.
const URIS_MAX: usize = 10_000;
/// Lists are not read again sooner, however many URIs are not known.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Where resources are.
#[derive(Clone, Debug, Default)]
pub(super) struct Routes {
    /// When both lists were read because a URI was not known.
    read: Option<Instant>,
    uris: HashMap<Box<str>, Arc<str>>,
    templates: Vec<(Template, Arc<str>)>,
}

impl Routes {
    /// The server's name.
    fn owner(&self, uri: &str) -> Option<&Arc<str>> {
        let template = || self.templates.iter().find(|(template, _)| template.fits(uri)).map(|(_, server)| server);
        self.uris.get(uri).or_else(template)
    }

    fn learn(&mut self, kind: Kind, gathered: &Gathered) {
        let items = gathered.items.iter().take(URIS_MAX);
        match kind.method {
            method if method == RESOURCES.method => {
                self.uris = items.map(|item| (item.key.as_str().into(), item.server.clone())).collect();
            }
            _ => self.templates = items.map(|item| (Template::new(&item.key), item.server.clone())).collect(),
        }
    }
}

/// A URI with expressions in braces (RFC 6570), any of which stands for any text here: it only has to be told whose it is.
#[derive(Clone, Debug)]
struct Template {
    whole: Box<str>,
    literals: Box<[Box<str>]>,
}

impl Template {
    fn new(text: &str) -> Self {
        let mut literals: Vec<Box<str>> = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            literals.push(before.into());
            rest = after.split_once('}').map_or("", |(_, after)| after);
        }
        literals.push(rest.into());
        Self { whole: text.into(), literals: literals.into() }
    }

    fn fits(&self, uri: &str) -> bool {
        uri == &*self.whole || matches_parts(self.literals.iter().map(|part| &**part), uri)
    }
}

impl Joined {
    /// Remembers what a list of resources or templates says.
    pub(super) fn remember(&self, kind: Kind, caller: &Caller, gathered: &Gathered) {
        if kind.method == RESOURCES.method || kind.method == TEMPLATES.method {
            self.change(caller, |routes| routes.learn(kind, gathered));
        }
    }

    fn change(&self, caller: &Caller, change: impl FnOnce(&mut Routes)) {
        let mut all = self.0.routes.lock();
        if all.len() >= ROUTES_MAX && !all.contains_key(&caller.principal) {
            // Whoever is forgotten has the lists read again.
            all.clear();
        }
        change(Arc::make_mut(all.entry(caller.principal.clone()).or_default()));
    }

    fn routes(&self, caller: &Caller) -> Arc<Routes> {
        self.0.routes.lock().get(&caller.principal).cloned().unwrap_or_default()
    }

    /// The server of a resource, as far as is known.
    pub(super) fn known_owner(&self, caller: &Caller, uri: &str) -> Option<Member> {
        self.0.set.member(self.routes(caller).owner(uri)?)
    }

    /// The server of a resource, asking all of them where that is not known.
    pub(super) async fn find_owner(&self, caller: &Caller, request: &Message, uri: &str) -> Option<Member> {
        if let Some(member) = self.known_owner(caller, uri) {
            return Some(member);
        }
        let now = Instant::now();
        if self.routes(caller).read.is_none_or(|read| now.duration_since(read) >= AGAIN_AFTER) {
            self.change(caller, |routes| routes.read = Some(now));
            let lists = futures_util::future::join(
                self.gather(RESOURCES, caller, request),
                self.gather(TEMPLATES, caller, request),
            );
            let (resources, templates) = lists.await;
            self.remember(RESOURCES, caller, &resources);
            self.remember(TEMPLATES, caller, &templates);
        }
        self.known_owner(caller, uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_fit_what_they_could_mean() {
        let check = |template: &str, uri: &str, expected| {
            assert_eq!(Template::new(template).fits(uri), expected, "{template} {uri}");
        };
        check("tree:///{+path}", "tree:///a/b", true);
        check("tree:///{+path}", "file:///a", false);
        check("test://{id}/data", "test://7/data", true);
        check("test://{id}/data", "test://{id}/data", true);
        check("test://{id}/data", "test://7/other", false);
        check("a*b{x}", "a*bc", true);
        check("a*b{x}", "aab", false);
        check("{x", "x", true);
        check("plain", "plain", true);
        check("plain", "plainer", false);
    }
}
