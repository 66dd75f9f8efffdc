//! The process ends at named points around the commit; what is there afterwards is what was
//! acknowledged, or one more whole group. Runs itself again as the process that dies.

use std::process::Command;

use standpipe_engine::{Identity, Op};
use tempfile::TempDir;

use crate::support::{get, merge, open, write_as};

const CHILD: &str = "STANDPIPE_TEST_FAULT_DIR";

/// Writes until the fault point ends the process. Not a test of its own: nothing happens without
/// the variable.
#[test]
fn child_that_dies() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let database = standpipe_engine::Database::open(
        "default",
        &standpipe_engine::EngineConfig {
            access: standpipe_engine::Access::Open,
            ..standpipe_engine::EngineConfig::new(dir)
        },
        Box::new(standpipe_engine::LocalLog),
        std::sync::Arc::new(|_| {}),
    )
    .unwrap();
    merge(&database, "/", r#"{"left":1,"right":1}"#);
    panic!("the fault point {:?} did not end the process", std::env::var("STANDPIPE_FAULT"));
}

#[test]
fn a_death_around_the_commit_leaves_whole_groups() {
    if !cfg!(feature = "fault") {
        return;
    }
    for (point, expected) in [("before_commit", r#"{"kept":0}"#), ("after_commit", r#"{"kept":0,"left":1,"right":1}"#)]
    {
        let dir = TempDir::new().unwrap();
        let database = open(&dir);
        // An index, too, is there as of a whole group; `verify` compares it with the tree.
        let rules = r#"{"rules": {".read": true, ".write": true, ".indexOn": ".value"}}"#;
        write_as(&database, Op::Rules(rules.into()), None, Identity::Admin).unwrap();
        merge(&database, "/", r#"{"kept":0}"#);
        drop(database);
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "faults::child_that_dies", "--nocapture"])
            .env(CHILD, dir.path())
            .env("STANDPIPE_FAULT", point)
            .output()
            .unwrap();
        assert!(!child.status.success());
        let database = open(&dir);
        assert_eq!(get(&database, "/"), expected, "{point}");
        database.try_snapshot().unwrap().verify().unwrap();
    }
}
