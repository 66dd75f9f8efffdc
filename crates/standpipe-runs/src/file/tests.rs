//! What files say, and what is wrong with them: tables of texts.

use std::time::Instant;

use super::*;
use crate::command::{SecretSource, Stdin};

const BOUNDS: FileBounds = FileBounds { bytes_max: 256 << 10, tasks_max: 100 };

fn read(text: &str, format: FileFormat) -> Result<Pipeline, FileErrors> {
    Pipeline::read(text, format, &BOUNDS)
}

/// Tasks as `name <- needs`.
fn shape(pipeline: &Pipeline) -> Vec<String> {
    let needs = |task: &crate::Task| task.needs.iter().map(Name::as_str).collect::<Vec<_>>().join(" ");
    pipeline.plan().tasks.iter().map(|task| format!("{} <- {}", task.name, needs(task))).collect()
}

/// The errors of a file, one a line.
fn errors(text: &str, format: FileFormat) -> String {
    read(text, format).map(|pipeline| shape(&pipeline).join("; ")).unwrap_or_else(|errors| errors.to_string())
}

const TOML: &str = r#"
name = "nightly"
parallel = 2
timeout = "1h"
env = { CI = true, LEVEL = 3 }

[params]
target = { default = "debug", choices = ["debug", "release"] }
who = "everyone"

[task.fetch]
command = ["git", "fetch", "${params.who}"]
cwd = "repo"
retries = 3
backoff = "2s"

[task.test]
run = "make test OS=\"$MATRIX_OS\""
needs = "fetch"
timeout = "10m"
grace = "5s"
stall = "1m"
artefacts = { report = "out/${matrix.os}.html", log = { path = "log", max = "1MiB", optional = true } }
matrix = { os = ["linux", "mac os"], version = [1.10, 2], exclude = [{ os = "mac os", version = 2 }] }
pty = true
events = "@event "
limits = { memory = "1GiB", cpu = "90s", output = "10MiB" }

[task.deploy]
run = "deploy"
needs = ["test"]
when = "params.target == 'release' && outputs.fetch.changed != ''"
inputs = { REVISION = "fetch.revision" }
secrets = { TOKEN = { file = "/run/token" }, KEY = { env = "DEPLOY_KEY" } }
stdin = "yes\n"
continue_on_failure = true
"#;

const YAML: &str = r#"
name: nightly
parallel: 2
timeout: 1h
env: {CI: true, LEVEL: 3}
params:
  target: {default: debug, choices: [debug, release]}
  who: everyone
tasks:
  fetch:
    command: [git, fetch, "${params.who}"]
    cwd: repo
    retries: 3
    backoff: 2s
  test:
    run: make test OS="$MATRIX_OS"
    needs: fetch
    timeout: 10m
    grace: 5s
    stall: 1m
    artefacts:
      report: out/${matrix.os}.html
      log: {path: log, max: 1MiB, optional: true}
    matrix:
      os: [linux, mac os]
      version: [1.10, 2]
      exclude: [{os: mac os, version: 2}]
    pty: true
    events: "@event "
    limits: {memory: 1GiB, cpu: 90s, output: 10MiB}
  deploy:
    run: deploy
    needs: [test]
    when: params.target == 'release' && outputs.fetch.changed != ''
    inputs: {REVISION: fetch.revision}
    secrets:
      TOKEN: {file: /run/token}
      KEY: {env: DEPLOY_KEY}
    stdin: "yes\n"
    continue_on_failure: true
"#;

#[test]
fn both_formats_say_the_same() {
    let toml = read(TOML, FileFormat::Toml).unwrap_or_else(|errors| panic!("{errors}"));
    let yaml = read(YAML, FileFormat::Yaml).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(toml.plan(), yaml.plan());
    assert_eq!((&toml.name, &toml.params), (&yaml.name, &yaml.params));
    let members = "test-linux-1_10 test-linux-2 test-mac_os-1_10";
    assert_eq!(
        shape(&toml),
        [
            "fetch <- ",
            "test-linux-1_10 <- fetch",
            "test-linux-2 <- fetch",
            "test-mac_os-1_10 <- fetch",
            &format!("deploy <- {members}"),
        ]
    );
    let test = &toml.plan().tasks[3];
    assert_eq!(test.command.argv, ["sh", "-c", "make test OS=\"$MATRIX_OS\""]);
    assert_eq!(test.command.env["MATRIX_OS"], "mac os");
    assert_eq!(test.command.env["MATRIX_VERSION"], "1.10");
    assert_eq!((&*test.command.env["CI"], &*test.command.env["LEVEL"]), ("true", "3"));
    assert_eq!(test.artefacts[0].path, "out/mac os.html");
    assert!(test.artefacts[1].optional);
    assert_eq!(test.artefacts[1].bytes_max, Some(1 << 20));
    assert_eq!(test.member_of.as_ref().map(Name::as_str), Some("test"));
    assert_eq!(
        (test.command.timeout_ms, test.command.grace_ms, test.command.stall_ms),
        (Some(600_000), Some(5_000), Some(60_000))
    );
    assert_eq!((test.command.resources.cpu_s, test.command.resources.memory_bytes), (Some(90), Some(1 << 30)));
    let deploy = &toml.plan().tasks[4];
    assert_eq!(deploy.command.stdin, Stdin::Data("yes\n".to_owned()));
    assert_eq!(deploy.command.secrets.len(), 2);
    assert!(deploy.command.secrets.iter().any(|secret| secret.from == SecretSource::File("/run/token".into())));
    let fetch = &toml.plan().tasks[0];
    assert_eq!((fetch.retries, fetch.backoff.first_ms, fetch.backoff.max_ms), (3, 2_000, 60_000));
}

/// What the page says to be the same is.
#[test]
fn the_examples_of_the_page_are_read() {
    let page = include_str!("../../../../docs/pipelines.md");
    let examples = |language: &str| -> Vec<Pipeline> {
        let begin = format!("\n```{language}\n");
        let texts = page.split(&*begin).skip(1).map(|rest| rest.split("\n```").next().unwrap());
        texts
            .map(|text| read(text, language.parse().unwrap()).unwrap_or_else(|errors| panic!("{text}\n{errors}")))
            .collect()
    };
    let (toml, yaml) = (examples("toml"), examples("yaml"));
    assert_eq!((toml.len(), yaml.len()), (4, 1));
    assert_eq!((toml[0].plan(), &toml[0].name), (yaml[0].plan(), &yaml[0].name));
}

#[test]
fn parameters_are_whole_arguments_and_variables() {
    let pipeline = read(TOML, FileFormat::Toml).unwrap();
    let base = Base {
        cwd: Some("/home/ann".into()),
        env: [("PATH", "/bin"), ("CI", "no")].map(|(a, b)| (a.into(), b.into())).into(),
    };
    let given = BTreeMap::from([("who".to_owned(), "a b; rm -rf $HOME".to_owned())]);
    let (plan, values) = pipeline.start(&base, &given).unwrap();
    assert_eq!(values["target"], "debug");
    let fetch = &plan.tasks[0].command;
    assert_eq!(fetch.argv, ["git", "fetch", "a b; rm -rf $HOME"]);
    assert_eq!(fetch.env["PARAM_WHO"], "a b; rm -rf $HOME");
    assert_eq!((&*fetch.env["PATH"], &*fetch.env["CI"]), ("/bin", "true"), "the file wins");
    assert_eq!(fetch.cwd.as_deref(), Some(Path::new("/home/ann/repo")));
    assert_eq!(plan.tasks[4].command.cwd.as_deref(), Some(Path::new("/home/ann")));
    let check = |name: &str, value: &str, says: &str| {
        let given = BTreeMap::from([(name.to_owned(), value.to_owned())]);
        assert_eq!(pipeline.start(&Base::default(), &given).unwrap_err().to_string(), says);
    };
    check("targt", "x", "the pipeline has no parameter `targt`; did you mean `target`?");
    check("target", "x", "\"x\" is no value of the parameter `target`; use one of debug, release");
    let must = read("params: {a: {}}\ntasks: {b: {run: x}}", FileFormat::Yaml).unwrap();
    let says = must.start(&Base::default(), &BTreeMap::new()).unwrap_err().to_string();
    assert_eq!(says, "the parameter `a` has no value; give one: --param a=VALUE");
}

#[test]
fn every_mistake_has_its_place_and_its_next_step() {
    let toml = |text: &str, says: &str| assert_eq!(errors(text, FileFormat::Toml), says, "{text}");
    let yaml = |text: &str, says: &str| assert_eq!(errors(text, FileFormat::Yaml), says, "{text}");
    toml(
        "[task.a]\nrun = \"x\"\nneed = \"b\"\nretries = \"3\"\n\n[task.b]\nrun = \"y\"\ntimeout = 10\n",
        "3:1: a task has no `need`; did you mean `needs`?\n\
         4:11: not the number that should be here; write a whole number, 0 to 100\n\
         8:11: \"10\" is no duration; write for example \"500ms\", \"10s\", \"1h30m\" or \"2d\"; name the number and its \
         unit, in quotes",
    );
    toml(
        "[task.build]\nrun = \"x\"\nneeds = [\"tset\"]\n[task.test]\nrun = \"x\"",
        "3:10: there is no task `tset`; did you mean `test`?",
    );
    yaml(
        "tasks:\n  a: {run: x, needs: c}\n  b: {run: x, needs: a}\n  c:\n    run: x\n    needs: [b]\n  d: {run: x, needs: [a]}\n",
        "2:22: tasks wait for each other: a → c → b → a; remove one of these `needs`",
    );
    yaml("tasks: {a: {run: x, needs: a}}", "1:28: tasks wait for each other: a → a; remove one of these `needs`");
    toml("", "1:1: no tasks; add [task.NAME] with run = \"…\" (TOML), or tasks: with NAME: and run: below it (YAML)");
    yaml("", "1:1: the file is empty; docs/pipelines.md has an example to begin with");
    yaml(
        "- a",
        "1:1: a list where the table of a pipeline should be; write `key = value` (TOML) or `key: value` (YAML)",
    );
    toml(
        "[task.a]\n",
        "1:7: task `a` does nothing; add run = \"a line for sh\" or command = [\"program\", \"argument\"]",
    );
    toml(
        "[task.a]\nrun = \"x\"\ncommand = [\"x\"]\n",
        "3:11: both `run` and `command`; keep one: `run` is a shell's line, `command` a list",
    );
    toml(
        "[task.a]\ncommand = \"make test\"",
        "2:11: `command` is a list of arguments; write [\"program\", \"argument\"], or use `run`",
    );
    toml(
        "[task.a]\nrun = \"x ${params.who}\"\n[task.b]\nrun = \"x ${matrix.o-s}\"",
        "2:7: ${params.who} in a line for the shell; a line gets it as a variable: write \"$PARAM_WHO\", with the quotes\n\
         4:7: ${matrix.o-s} in a line for the shell; a line gets it as a variable: write \"$MATRIX_O_S\", with the quotes",
    );
    toml(
        "[task.a]\ncommand = [\"sh\", \"-c\", \"x ${params.who}\"]",
        "2:11: a parameter inside of \"x ${params.who}\"; it stands for a whole argument, such as \"${params.x}\"; every \
         task also has PARAM_X",
    );
    toml(
        "[task.a]\ncommand = [\"x\", \"${params.who}\"]",
        "2:11: there is no parameter `who`; declare it: [params], then who = \"default\"",
    );
    toml(
        "[task.a]\nrun = \"x\"\nwhen = \"succeded(b)\"\n[task.b]\nrun = \"x\"",
        "3:8: `when`: `succeded(b)` where a condition should be; conditions look like: succeeded(build) && \
         params.deploy == 'yes'; docs/pipelines.md has all of them",
    );
    toml(
        "[task.a]\nrun = \"x\"\nwhen = \"succeeded(b)\"\ninputs = { X = \"b.c\", Y = \"b\" }\n[task.b]\nrun = \"x\"",
        "3:8: `a` does not need `b`, which may not have ended; add \"b\" to its `needs`\n\
         4:16: `a` does not need `b`, which may not have ended; add \"b\" to its `needs`\n\
         4:27: \"b\" names no output; write \"task.output\": the task that says `::output name=value`, and the name",
    );
    toml(
        "[task.a]\nrun = \"x\"\nmatrix = { os = [\"b\"] }\n[task.a-b]\nrun = \"x\"\n",
        "4:7: two tasks are called `a-b`; members of a matrix are named after their values; rename one",
    );
    toml(
        "[task.a]\nrun = \"x\"\nneeds = \"m\"\ninputs = { X = \"m.o\" }\n[task.m]\nrun = \"x\"\nmatrix = { os = [1, 2] }",
        "4:16: `m` is a matrix, and each member has outputs of its own; name one member, such as `m-1`",
    );
    toml(
        "[task.a]\nrun = \"x\"\nmatrix = { os = [1, 2], exclude = [{ os = 1 }, { os = 2 }, { oz = 1 }] }",
        "3:10: `exclude` names oz = \"1\", which is not in it; an excluded combination names lists of this matrix and \
         values in them\n3:10: every combination is excluded; leave at least one",
    );
    toml(
        "[task.a]\nrun = \"x\"\nartefacts = { a = \"../x\", b = \"/etc/passwd\", c = \"x/../../y\", d = \"\", e = \"x/\" }",
        "3:19: \"../x\" is no file inside of the task's folder; name a file inside the task's folder, such as \
         \"out/report.html\"\n\
         3:31: \"/etc/passwd\" is no file inside of the task's folder; name a file inside the task's folder, such as \
         \"out/report.html\"\n\
         3:50: \"x/../../y\" is no file inside of the task's folder; name a file inside the task's folder, such as \
         \"out/report.html\"\n\
         3:67: \"\" is no file inside of the task's folder; name a file inside the task's folder, such as \
         \"out/report.html\"\n\
         3:75: \"x/\" is no file inside of the task's folder; name a file inside the task's folder, such as \
         \"out/report.html\"",
    );
    toml(
        "[task.a]\nrun = \"x\"\nsecrets = { T = \"hunter2\", U = { file = \"a\", env = \"b\" } }\nenv = { \"A B\" = 1, STANDPIPE_RUN = 2 }",
        "3:17: text where the table of a secret should be; write `key = value` (TOML) or `key: value` (YAML)\n\
         3:32: a secret comes from one place; write { file = \"/path\" } or { env = \"VARIABLE\" }; a value itself does \
         not belong here\n\
         4:9: \"A B\" is no name of a variable; a variable is letters, digits and _, and does not begin with a digit\n\
         4:20: STANDPIPE_RUN is set by standpipe; call it something else",
    );
    toml(
        "[task.\"a b\"]\nrun = \"x\"\n",
        "1:7: \"a b\" is no name; a name is 1 to 64 of the characters A-Z a-z 0-9 _ -, and does not begin with -",
    );
    toml(
        "[task.a]\nrun = \"x\nb = 1\n",
        "2:9: invalid basic string, expected `\"`; the file is TOML: [table], then key = value lines",
    );
    yaml("tasks:\n  a:\n    run: x\n    run: y\n", "4:5: a second `run` in one table; remove one of the two");
    yaml(
        "tasks:\n  a:\n\trun: x\n",
        "3:2: tabs disallowed within this context (block indentation); the file is YAML; look at the indentation and quotes of this line and the one before",
    );
    yaml("a: 1\n---\nb: 2\n", "2:1: a second document begins; a pipeline is one document; remove this one");
    yaml(
        "tasks: {a: {run: !!python/object x}}",
        "1:18: a tag tag:yaml.org,2002:!python/object; tags mean nothing here; remove it",
    );
    yaml(
        "tasks: {a: {run: x, ? [b] : c}}",
        "1:23: a key is text, not a list; the file is YAML; look at the indentation and quotes of this line and the one before",
    );
    yaml(
        "tasks: {a: {run: yes, pty: yes}}",
        "1:28: text where a boolean should be; write true or false, without quotes",
    );
}

#[test]
fn anchors_and_merges_work_and_are_bounded() {
    let text = "x-base: &base {run: x, retries: 2}\ntasks:\n  a: {<<: *base}\n  b: {<<: [*base], run: y}\n";
    assert_eq!(errors(text, FileFormat::Yaml), "a <- ; b <- ");
    let text = "tasks:\n  a: &base {run: x, retries: 2}\n  b: {<<: *base, run: y, needs: a}\n";
    let pipeline = read(text, FileFormat::Yaml).unwrap();
    let b = &pipeline.plan().tasks[1];
    assert_eq!((&*b.command.argv[2], b.retries), ("y", 2));
    let mut bomb = "a: &a0 [x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..20 {
        let items = vec![format!("*a{}", level - 1); 8].join(", ");
        bomb += &format!("b{level}: &a{level} [{items}]\n");
    }
    assert!(
        errors(&bomb, FileFormat::Yaml).contains("aliases make the file too large"),
        "{}",
        errors(&bomb, FileFormat::Yaml)
    );
    assert!(errors("a: &a [*a]", FileFormat::Yaml).contains("an alias inside what it names"));
    assert!(errors("a: *b", FileFormat::Yaml).contains("unknown anchor"), "{}", errors("a: *b", FileFormat::Yaml));
    assert!(errors("a: &a {<<: 1}", FileFormat::Yaml).contains("`<<` takes a table"));
}

#[test]
fn what_is_too_large_is_refused_before_it_is_made() {
    let hundred: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    let list = hundred.join(", ");
    let text = format!("[task.a]\nrun = \"x\"\nmatrix = {{ a = [{list}], b = [{list}], c = [{list}], d = [{list}] }}");
    assert_eq!(
        errors(&text, FileFormat::Toml),
        "3:10: more than 100 tasks, the members of matrices counted; divide the pipeline, or raise pipeline_tasks_max"
    );
    let many: String = (0..101).map(|number| format!("[task.t{number}]\nrun = \"x\"\n")).collect();
    assert!(
        errors(&many, FileFormat::Toml).starts_with("201:7: more than 100 tasks"),
        "{}",
        errors(&many, FileFormat::Toml)
    );
    let large = "#".repeat(BOUNDS.bytes_max + 1);
    assert!(errors(&large, FileFormat::Toml).contains("pipeline_bytes_max"));
    assert!(errors(&large, FileFormat::Yaml).contains("pipeline_bytes_max"));
    let wrong: String = (0..50).map(|number| format!("k{number} = 1\n")).collect();
    let errors = read(&wrong, FileFormat::Toml).unwrap_err();
    assert_eq!((errors.errors.len(), errors.more), (20, true));
}

#[test]
fn hostile_texts_are_answered_soon() {
    let n = BOUNDS.bytes_max / 2 - 10;
    let texts = [
        "[".repeat(n),
        "{".repeat(n),
        "- ".repeat(n / 2),
        "a: ".repeat(n / 3),
        "? ".repeat(n / 2),
        format!("a: [{}]", "x,".repeat(n / 2)),
        format!("a: {{{}}}", "x,".repeat(n / 2)),
        format!("a: \"{}", "\\".repeat(n)),
        format!("a: {}", "&a ".repeat(n / 3)),
        format!("a = {}", "[".repeat(n)),
        format!("a = [{}]", "1,".repeat(n / 2)),
        format!("a{} = 1", ".a".repeat(n / 2)),
        "[a]\n".repeat(n / 4),
        "[[a]]\n".repeat(n / 6),
        "é: ü\n".repeat(n / 8),
        (0..n / 8).map(|index| format!("k{index}: &a{index} x\n")).collect::<String>().chars().take(n).collect(),
    ];
    for text in texts {
        for format in [FileFormat::Toml, FileFormat::Yaml] {
            let begun = Instant::now();
            let result = read(&text, format);
            let took = begun.elapsed();
            assert!(result.is_err(), "{}", &text[..20]);
            // Unoptimised and beside other tests; what is quadratic takes minutes.
            assert!(took.as_secs() < 20, "{:?} {format:?} took {took:?}", &text[..20]);
        }
    }
}

#[test]
fn random_bytes_and_damaged_files_never_panic() {
    let mut seed = std::process::id() as u64 | 1;
    eprintln!("seed {seed}");
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for round in 0..400 {
        let (text, format) = if round % 2 == 0 { (TOML, FileFormat::Toml) } else { (YAML, FileFormat::Yaml) };
        let mut bytes = text.as_bytes().to_vec();
        for _ in 0..1 + random() % 6 {
            let at = random() as usize % bytes.len();
            match random() % 3 {
                0 => bytes[at] = b"{}[]\"':=,.-#&*<>!|\n\t \\\xc3\xa9x0"[random() as usize % 26],
                1 => drop(bytes.remove(at)),
                _ => drop(bytes.splice(at..at, text.bytes().skip(at / 2).take(20)).collect::<Vec<_>>()),
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        if let Err(errors) = read(&text, format) {
            for error in errors.errors {
                assert!(text.get(error.span.clone()).is_some(), "{error} {:?}", error.span);
            }
        }
    }
}
