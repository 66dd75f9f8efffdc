//! Files of pipelines: any text as TOML and as YAML, and whatever plan comes of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use standpipe_runs::{Base, FileBounds, FileFormat, Pipeline, Plan};

const BOUNDS: FileBounds = FileBounds { bytes_max: 64 << 10, tasks_max: 200 };

/// A pipeline's text in either format: refused with places in it, or a plan that can be followed, and stored.
pub fn pipeline(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for format in [FileFormat::Toml, FileFormat::Yaml] {
        let pipeline = match Pipeline::read(text, format, &BOUNDS) {
            Ok(pipeline) => pipeline,
            Err(errors) => {
                assert!((1..=20).contains(&errors.errors.len()));
                for error in &errors.errors {
                    assert!(text.get(error.span.clone()).is_some(), "a place in the text");
                    assert!(error.line > 0 && error.column > 0 && !error.message.is_empty() && !error.help.is_empty());
                }
                continue;
            }
        };
        let plan = Arc::new(pipeline.plan().clone());
        plan.check().expect("what was read can be followed");
        assert!((1..=BOUNDS.tasks_max).contains(&plan.tasks.len()));
        let levels = plan.levels();
        assert_eq!(levels.iter().map(Vec::len).sum::<usize>(), plan.tasks.len());
        assert!(plan.tasks.iter().all(|task| !task.command.argv.is_empty()));
        let stored = serde_json::to_vec(&*plan).expect("a plan is plain values");
        let again: Plan = serde_json::from_slice(&stored).expect("what was stored is read");
        assert_eq!(again, *plan);
        let given = pipeline.params.iter().filter(|(_, param)| param.default.is_none());
        let value =
            |param: &standpipe_runs::Param| param.choices.first().cloned().unwrap_or_else(|| "${params.x}".into());
        let given: BTreeMap<_, _> = given.map(|(name, param)| (name.clone(), value(param))).collect();
        let (started, values) = pipeline.start(&Base::default(), &given).expect("every parameter has a value");
        assert_eq!((started.tasks.len(), values.len()), (plan.tasks.len(), pipeline.params.len()));
    }
}
