//! Pipelines as their users meet them: files checked without a server, the examples of the documentation, a real pipeline
//! of Luigi both as one command and task by task, the project's own build, and what a stop, a resume and a retry leave.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use standpipe_testkit::http::request;
use standpipe_testkit::{Launch, Server, tool, until};

use crate::runs_support::{User, ended, operator, output};
use crate::support::{dev, quiet};

/// The reference, whose examples are played.
const PAGE: &str = include_str!("../../../../docs/pipelines.md");

/// The examples of the page in one language, in order.
fn examples(language: &str) -> Vec<&'static str> {
    let begin = format!("\n```{language}\n");
    PAGE.split(&*begin).skip(1).map(|rest| rest.split("\n```").next().unwrap()).collect()
}

fn write(dir: &Path, name: &str, text: &str) {
    std::fs::write(dir.join(name), text).unwrap();
}

/// Each task of a run and its state, by name.
fn states(run: &Value) -> String {
    let tasks = run["tasks"].as_object().unwrap().iter();
    tasks.map(|(name, task)| format!("{name}:{}", task["state"].as_str().unwrap())).collect::<Vec<_>>().join(" ")
}

/// How often each task was begun.
fn attempts(run: &Value, task: &str) -> u64 {
    run["tasks"][task]["attempts"].as_u64().unwrap_or_default()
}

/// A stream's output as it is.
fn task_output(server: &Server, id: &str, task: &str) -> String {
    let target = format!("/runs/{id}/tasks/{task}/out?raw=1&follow=0");
    let got = request(server.addr(), "GET", &target, &[], b"").unwrap();
    assert_eq!(got.status, 200, "{task}: {}", got.text());
    got.text()
}

fn text_output(server: &Server, id: &str) -> String {
    String::from_utf8(output(server.addr(), id)).unwrap()
}

/// Starts a pipeline and leaves it to the server; gives its id.
fn detached(user: &User, arguments: &[&str]) -> String {
    let told = user.ok(&[&["pipeline", "run", "--detach"], arguments].concat());
    told.split(' ').next().unwrap().to_owned()
}

fn pipelines() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pipelines")
}

#[test]
fn a_file_is_checked_without_a_server() {
    let server = dev();
    let user = User::of(&server);
    quiet(server, &[]);
    let dir = user.dir.path();
    write(dir, "nightly.toml", examples("toml")[0]);
    write(dir, "nightly.yaml", examples("yaml")[0]);
    let said = examples("text")[0];
    assert_eq!(user.ok(&["pipeline", "check", "nightly.toml"]).trim_end(), said);
    assert_eq!(user.ok(&["pipeline", "check", "nightly.yaml"]).trim_end(), said.replace(".toml", ".yaml"));
    let plan = user.json(&["pipeline", "check", "nightly.yaml", "--json"]);
    assert_eq!(plan["tasks"][3]["needs"], json!(["test", "lint"]));
    write(dir, "bad.toml", "[task.test]\nrun = \"x\"\nneeds = [\"tset\"]\nretry = 1\n");
    let (out, err) = user.ends(2, &["pipeline", "check", "bad.toml"]);
    assert_eq!(out, "");
    for part in [examples("text")[1].lines().next().unwrap(), "--> bad.toml:3:10", "did you mean `test`?", "no `retry`"]
    {
        assert!(err.contains(part), "{part}: {err}");
    }
    assert!(err.contains("error: bad.toml:3:10: there is no task `tset` (and 1 more)"), "{err}");
    write(dir, "circle.yaml", "tasks: {a: {run: x, needs: b}, b: {run: x, needs: c}, c: {run: x, needs: a}}");
    assert!(user.ends(2, &["pipeline", "check", "circle.yaml"]).1.contains("a → b → c → a"));
    let check = |file: &str, code, says: &str| {
        let err = user.ends(code, &["pipeline", "check", file]).1;
        assert!(err.contains(says) && err.contains("help: "), "{file}: {err}");
    };
    check("nightly.txt", 2, "neither .toml nor .yaml");
    check("missing.toml", 1, "missing.toml");
    std::fs::write(dir.join("bytes.toml"), b"a = \"\xff\"").unwrap();
    check("bytes.toml", 2, "no UTF-8 after 5 bytes");
    std::fs::write(dir.join("long.toml"), " ".repeat(300 << 10)).unwrap();
    check("long.toml", 2, "pipeline_bytes_max");
    // A server is needed to run one, and which is missing is said.
    let (_, err) = user.ends(125, &["pipeline", "run", "nightly.toml"]);
    assert!(err.contains("standpipe dev"), "{err}");
    let (_, err) = user.ends(125, &["pipeline", "run", "bad.toml"]);
    assert!(err.contains("bad.toml:3:10"), "a file that is wrong is not sent: {err}");
}

#[test]
fn the_examples_of_the_page_run() {
    let server = dev();
    let user = User::of(&server);
    let ids: Vec<String> = ["toml", "yaml"]
        .iter()
        .flat_map(|language| {
            examples(language).into_iter().enumerate().map(move |(index, text)| (language, index, text))
        })
        .map(|(language, index, text)| {
            let file = format!("{language}-{index}.{language}");
            write(user.dir.path(), &file, text);
            let params: &[&str] = if text.contains("ticket") { &["--param", "ticket=42"] } else { &[] };
            let id = detached(&user, &[&[&*file, "--name", &format!("{language}-{index}")], params].concat());
            let run = ended(&server, &id);
            assert_eq!(run["state"], "succeeded", "{file}: {run}");
            id
        })
        .collect();
    assert_eq!(ids[0], "toml-0@1");
    for id in ["toml-0@1", "yaml-0@1"] {
        let run = ended(&server, id);
        assert_eq!(states(&run), "fetch:succeeded lint:succeeded report:succeeded test:succeeded");
        assert_eq!(task_output(&server, id, "test"), "testing abc123\n");
        assert_eq!(task_output(&server, id, "fetch"), "", "an output is an event");
        let whole = text_output(&server, id);
        assert!(whole.contains("test | testing abc123\n") && whole.ends_with("report | done\n"), "{whole}");
    }
    let report = user.ok(&["runs", "artefact", "toml-1", "test", "report"]);
    assert_eq!(report, "<p>fine</p>\n");
    let matrix = ended(&server, "toml-2@1");
    let members = "pack-linux:succeeded pack-macos:succeeded test-linux-1_10:succeeded test-linux-2:succeeded \
                   test-macos-1_10:succeeded";
    assert_eq!(states(&matrix), members);
    assert_eq!(task_output(&server, "toml-2@1", "test-macos-1_10"), "on macos with 1.10\n");
    assert_eq!(task_output(&server, "toml-2@1", "pack-linux"), "--os=linux\n");
    assert_eq!(task_output(&server, "toml-3@1", "greet"), "hello everyone, about 42\n");
    assert_eq!(task_output(&server, "toml-3@1", "build"), "--target debug\n");
    // Whatever a parameter holds, it is text.
    let evil = "who=$(touch owned); `touch owned` \"' ${HOME}";
    let file = ["toml-3.toml", "--name", "evil", "--param", "ticket=;", "--param", evil];
    assert_eq!(ended(&server, &detached(&user, &file))["state"], "succeeded");
    let expected = format!("hello {}, about ;\n", evil.split_once('=').unwrap().1);
    assert_eq!(task_output(&server, "evil@1", "greet"), expected);
    assert!(!user.dir.path().join("owned").exists());
    let (_, err) = user.ends(125, &["pipeline", "run", "toml-3.toml"]);
    assert!(err.contains("`ticket` has no value"), "{err}");
    let (_, err) = user.ends(125, &["pipeline", "run", "toml-3.toml", "--param", "ticket=1", "--param", "target=x"]);
    assert!(err.contains("use one of debug, release"), "{err}");
    quiet(server, &[]);
}

#[test]
fn a_pipeline_ends_as_its_tasks_do_and_says_so_here() {
    let server = dev();
    let user = User::of(&server);
    let text = "tasks:\n  a: {run: 'echo one; echo two >&2'}\n  b: {run: 'echo three; exit 7', needs: a}\n  \
                c: {run: echo never, needs: b}\n  d: {run: 'echo swept', needs: [c], when: failure()}\n";
    write(user.dir.path(), "p.yaml", text);
    let (out, err) = user.ends(7, &["pipeline", "run", "p.yaml"]);
    let link = format!("standpipe: p@1 {}/runs/p@1", server.url());
    assert_eq!(err.lines().next(), Some(&*link), "{err}");
    assert!(err.contains("standpipe: p@1 failed, exit code 7: task `b` is failed"), "{err}");
    let said = format!("{out}{err}");
    for line in ["a | one\n", "a | two\n", "b | three\n", "d | swept\n"] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(!said.contains("never"), "{said}");
    let run = ended(&server, "p@1");
    assert_eq!(states(&run), "a:succeeded b:failed c:skipped d:succeeded");
    assert_eq!((&run["state"], &run["exit_code"]), (&json!("failed"), &json!(7)));
    assert_eq!(run["progress"]["fraction"], 1.0);
    quiet(server, &[]);
}

#[test]
fn a_stopped_pipeline_never_runs_another_task() {
    let server = dev();
    let user = User::of(&server);
    let text = "tasks:\n  a: {run: 'echo begun; sleep 1000 & wait'}\n  b: {run: touch b, needs: a}\n  \
                z: {run: touch z, needs: b, when: always()}\n  r: {run: 'echo tried; exit 1', retries: 50, backoff: 1h}\n";
    write(user.dir.path(), "p.yaml", text);
    let id = detached(&user, &["p.yaml"]);
    assert!(until(|| {
        let run = operator(&server, "GET", &format!("/runs/{id}"), &json!(null)).json().unwrap();
        run["tasks"]["r"]["state"] == "retrying" && text_output(&server, &id).contains("a | begun")
    }));
    assert_eq!(user.ok(&["runs", "stop", &id, "--grace", "5s"]), format!("{id} cancelled\n"));
    let run = ended(&server, &id);
    assert_eq!(states(&run), "a:cancelled b:cancelled r:cancelled z:cancelled");
    assert_eq!((attempts(&run, "r"), attempts(&run, "z")), (1, 0));
    assert!(["b", "z"].iter().all(|name| !user.dir.path().join(name).exists()));
    // Whoever waits for the stream of a task that never began is told.
    let got = request(server.addr(), "GET", &format!("/runs/{id}/tasks/b/out"), &[], b"").unwrap();
    assert!(got.text().contains("cancelled"), "{}", got.text());
    quiet(server, &[]);
}

#[test]
fn a_resumed_pipeline_redoes_what_did_not_succeed_and_one_task_is_retried() {
    let server = dev();
    let user = User::of(&server);
    let text = "tasks:\n  a: {run: 'echo x >> a.log; echo kept > out; echo ::output v=7', artefacts: {out: out}}\n  \
                b: {run: 'test -e mended && echo \"got $V\"', needs: a, inputs: {V: a.v}}\n  \
                c: {run: 'echo x >> c.log', needs: a}\n  d: {run: echo end, needs: [b, c]}\n";
    write(user.dir.path(), "p.yaml", text);
    let count = |file: &str| std::fs::read_to_string(user.dir.path().join(file)).unwrap().lines().count();
    user.ends(1, &["pipeline", "run", "p.yaml"]);
    write(user.dir.path(), "mended", "");
    assert!(user.ok(&["runs", "resume", "p"]).starts_with("p@2 "));
    let run = ended(&server, "p@2");
    assert_eq!(
        (run["state"].as_str(), states(&run)),
        (Some("succeeded"), "a:succeeded b:succeeded c:succeeded d:succeeded".into())
    );
    assert_eq!((count("a.log"), count("c.log")), (1, 1), "what succeeded is not done again");
    assert_eq!(task_output(&server, "p@2", "b"), "got 7\n");
    assert_eq!(user.ok(&["runs", "artefact", "p@2", "a", "out"]), "kept\n");
    let (_, err) = user.ends(1, &["runs", "resume", "p@1"]);
    assert!(err.contains("p@2"), "a second resume is told of the first: {err}");
    assert!(user.ok(&["runs", "retry", "p@2", "--task", "c"]).starts_with("p@3 "));
    assert_eq!(ended(&server, "p@3")["state"], "succeeded");
    assert_eq!((count("a.log"), count("c.log")), (1, 2));
    assert_eq!(text_output(&server, "p@3"), "d | end\n");
    // Artefacts live as long as a run that has them.
    let prune = json!({ "name": "p", "keep": 1 });
    assert_eq!(operator(&server, "POST", "/runs/prune", &prune).status, 200);
    assert_eq!(user.ok(&["runs", "artefact", "p@3", "a", "out"]), "kept\n");
    assert_eq!(operator(&server, "GET", "/runs/p@2/artefacts/a/out", &json!(null)).status, 404);
    quiet(server, &[]);
}

/// Luigi's pipeline in a folder of its own, held up by a file.
fn orders(user: &User) -> Option<String> {
    let Some(python) = tool("python/bin/luigi").and(tool("python/bin/python")) else {
        eprintln!("left out: no luigi; cargo xtask test installs it");
        return None;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/orders.py");
    let dir = user.dir.path();
    std::fs::copy(script, dir.join("orders.py")).unwrap();
    // Without it Luigi ends with 0 after a failed task.
    write(
        dir,
        "luigi.cfg",
        "[retcode]\nmissing_data=20\nnot_run=25\ntask_failed=30\nscheduling_error=35\nunhandled_exception=40\n",
    );
    write(dir, "wait", "");
    Some(python.to_str().unwrap().to_owned())
}

/// What the twelve tasks of Luigi find.
const REPORT: &str = "west 16860\neast 12645\nsouth 8430\nnorth 4215\n";

#[test]
fn a_pipeline_of_luigi_as_one_command_with_live_output() {
    let server = dev();
    let user = User::of(&server);
    let Some(python) = orders(&user) else { return quiet(server, &[]) };
    let luigi = ["-m", "luigi", "--module", "orders", "Report", "--folder", ".", "--local-scheduler", "--workers", "2"];
    let variables = ["--env", "LUIGI_CONFIG_PATH=luigi.cfg", "--env", "PYTHONDONTWRITEBYTECODE=1"];
    let id = user.detached(&[&["--name", "orders"], &variables[..], &["--", &python], &luigi[..]].concat());
    let viewer = user.start("curl", &["-sN", &format!("{}/runs/{id}/out", server.url())]);
    // Luigi's log is among the output; the rest of it can't come before the viewer has seen the beginning.
    let mut seen = Vec::new();
    while !seen.contains(&"prepare: begins".to_owned()) {
        seen.push(viewer.line());
    }
    std::fs::remove_file(user.dir.path().join("wait")).unwrap();
    let run = ended(&server, &id);
    assert_eq!(run["state"], "succeeded", "{}", text_output(&server, &id));
    seen.extend(viewer.rest());
    let wrote = seen.iter().filter(|line| line.contains(": wrote ")).count();
    assert_eq!(wrote, 12, "{seen:?}");
    assert!(seen.iter().any(|line| line.contains("12 ran successfully")), "{seen:?}");
    assert_eq!(std::fs::read_to_string(user.dir.path().join("report.txt")).unwrap(), REPORT);
    quiet(server, &[]);
}

#[test]
fn a_pipeline_of_luigi_translated_task_by_task_and_resumed() {
    let server = dev();
    let user = User::of(&server);
    let Some(python) = orders(&user) else { return quiet(server, &[]) };
    let file = pipelines().join("orders.toml");
    let file = file.to_str().unwrap();
    std::fs::remove_file(user.dir.path().join("wait")).unwrap();
    write(user.dir.path(), "broken", "west");
    let id = detached(&user, &[file, "--param", &format!("python={python}")]);
    let run = ended(&server, &id);
    assert_eq!((&run["state"], &run["exit_code"]), (&json!("failed"), &json!(30)), "{}", text_output(&server, &id));
    let failed = "clean-east:succeeded clean-north:succeeded clean-south:succeeded clean-west:failed fetch-east:succeeded \
                  fetch-north:succeeded fetch-south:succeeded fetch-west:succeeded prepare:succeeded ranking:skipped \
                  report:skipped totals:skipped";
    assert_eq!(states(&run), failed);
    assert!(task_output(&server, &id, "clean-west").contains("the orders of west are broken"));
    std::fs::remove_file(user.dir.path().join("broken")).unwrap();
    user.ok(&["runs", "resume", "orders"]);
    let run = ended(&server, "orders@2");
    assert_eq!(run["state"], "succeeded", "{}", text_output(&server, "orders@2"));
    assert_eq!(states(&run).matches(":succeeded").count(), 12);
    let redone = text_output(&server, "orders@2");
    let begun = |task: &str| redone.contains(&format!("{task} | {}: wrote", task.split('-').next().unwrap()));
    assert!(["clean-west", "totals", "ranking", "report"].iter().all(|task| begun(task)), "{redone}");
    assert!(["prepare", "fetch-west", "clean-east"].iter().all(|task| !begun(task)), "{redone}");
    assert_eq!(user.ok(&["runs", "artefact", "orders", "report", "report"]), REPORT);
    quiet(server, &[]);
}

#[test]
fn the_projects_own_build_is_a_pipeline() {
    let server = dev();
    let user = User::of(&server);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let file = pipelines().join("build.yaml");
    // Kept between runs of the test, beside the folder it was built into.
    let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().join("pipeline");
    let cargo = Path::new(env!("CARGO")).parent().unwrap();
    let path = format!("PATH={}:{}", cargo.display(), std::env::var("PATH").unwrap());
    let home = |name: &str, folder: &str| {
        let usual = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(folder);
        format!("{name}={}", std::env::var_os(name).map_or_else(usual, PathBuf::from).display())
    };
    let target = format!("CARGO_TARGET_DIR={}", target.display());
    let (cargo_home, rustup_home) = (home("CARGO_HOME", ".cargo"), home("RUSTUP_HOME", ".rustup"));
    let variables = ["--env", &*path, "--env", &*cargo_home, "--env", &*rustup_home, "--env", &*target];
    let (root, file) = (root.to_str().unwrap(), file.to_str().unwrap());
    let arguments = [&["pipeline", "run", file, "--cwd", root], &variables[..]].concat();
    let told = user.output(&arguments);
    let (out, err) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    assert_eq!(told.status.code(), Some(0), "{out}\n{err}");
    assert!(out.contains("done | built standpipe-tree\n"), "{out}");
    let run = ended(&server, "build@1");
    assert_eq!(run["state"], "succeeded");
    assert!(task_output(&server, "build@1", "build").contains("Finished"), "{err}");
    quiet(server, &[]);
}

#[test]
fn a_pipeline_survives_its_server_and_goes_on() {
    let mut server = Launch::dev().same_port().start().unwrap();
    let user = User::of(&server);
    let text = "tasks:\n  a: {run: 'echo x >> a.log'}\n  b: {run: 'echo begun; test -e go || sleep 1000', needs: a}\n  \
                c: {run: echo end, needs: b}\n";
    write(user.dir.path(), "p.yaml", text);
    let id = detached(&user, &["p.yaml"]);
    assert!(until(|| text_output(&server, &id).contains("b | begun")));
    server.kill().unwrap();
    write(user.dir.path(), "go", "");
    server.restart().unwrap();
    let run = ended(&server, &id);
    assert_eq!(
        (run["state"].as_str(), states(&run)),
        (Some("interrupted"), "a:succeeded b:interrupted c:cancelled".into())
    );
    user.ok(&["runs", "resume", "p"]);
    let run = ended(&server, "p@2");
    assert_eq!(run["state"], "succeeded", "{run}");
    assert_eq!(std::fs::read_to_string(user.dir.path().join("a.log")).unwrap(), "x\n");
    quiet(server, &[]);
}
