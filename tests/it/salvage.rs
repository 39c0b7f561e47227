//! From a refused start back to a broker that runs, as an operator would go.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::broker::{Broker, naru, serve};

fn ended(output: &Output, code: i32) -> (String, String) {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    let stdout = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stdout}{stderr}");
    (stdout, stderr)
}

fn produce(broker: &Broker, topic: &str, lines: &str) {
    let path = broker.dir.path().join("lines");
    fs::write(&path, lines).unwrap();
    let mut command = naru();
    command.args(["-s", &broker.url(), "produce", topic, "-p", "0"]);
    let input = fs::File::open(&path).unwrap();
    ended(&command.stdin(input).output().unwrap(), 0);
}

/// The journal file and the group in it that holds these bytes.
fn group_of(data: &Path, needle: &[u8]) -> (PathBuf, usize) {
    let files = fs::read_dir(data.join("journal"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut places = files.filter_map(|path| {
        let bytes = fs::read(&path).unwrap();
        let at = bytes.windows(needle.len()).position(|w| w == needle)?;
        Some((path, at / 4096 * 4096))
    });
    places.next().unwrap()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn refused_start(data: &Path) -> String {
    let output = serve(data).stderr(Stdio::piped()).output().unwrap();
    let (_, log) = ended(&output, 1);
    log
}

fn salvage(data: &Path, args: &[&str], code: i32) -> (Value, String) {
    let config = data.with_file_name("naru.toml");
    let small = "[storage]\njournal_file_bytes = \"1MiB\"\nreserve_bytes = \"1MiB\"\n[limits]\nrequest_bytes_max = \"512KiB\"\n";
    fs::write(&config, small).unwrap();
    let mut command = naru();
    command
        .args(["log", "salvage", "--format", "json", "--config"])
        .arg(config)
        .arg(data);
    let (stdout, stderr) = ended(&command.args(args).output().unwrap(), code);
    let value = if stdout.is_empty() {
        Value::Null
    } else {
        serde_json::from_str(&stdout).unwrap()
    };
    (value, stderr)
}

fn what_the_broker_and_the_doctor_say(data: &Path) {
    let why = refused_start(data);
    assert!(
        why.contains("naru doctor") && why.contains("naru log salvage"),
        "{why}"
    );
    let doctor = naru()
        .args(["doctor", "--format", "table"])
        .arg(data)
        .output()
        .unwrap();
    let (page, _) = ended(&doctor, 8);
    assert!(
        page.contains("error    start") && page.contains("naru log salvage"),
        "{page}"
    );
}

/// A broker that was killed, with a group in its journal that cannot be read: its file and its place.
fn killed_and_damaged() -> (Broker, PathBuf, usize) {
    let mut broker = Broker::start();
    for topic in ["orders", "other"] {
        ended(&broker.run(&["topic", "create", topic]), 0);
    }
    produce(&broker, "orders", "first\n");
    produce(&broker, "orders", "lost-1\n");
    produce(&broker, "other", "behind\n");
    salvage(&broker.data, &[], 4);
    broker.kill();
    let data = broker.data.clone();
    assert_eq!(salvage(&data, &[], 0).0["starts"], true);
    let (path, group) = group_of(&data, b"lost-1");
    flip(&path, group + 40);
    (broker, path, group)
}

#[test]
fn a_group_that_cannot_be_read_is_given_up_by_name_and_the_broker_starts() {
    let (mut broker, path, group) = killed_and_damaged();
    let data = broker.data.clone();
    what_the_broker_and_the_doctor_say(&data);
    let (plan, _) = salvage(&data, &[], 8);
    let lsn = plan["obstacles"][0]["first_lsn"].as_u64().unwrap();
    let way = format!("group:{lsn}");
    assert_eq!(plan["obstacles"][0]["way"], way.as_str(), "{plan}");
    assert!(
        plan["command"]
            .as_str()
            .unwrap()
            .ends_with(&format!("--give-up {way}")),
        "{plan}"
    );
    let given_up = &plan["given_up"];
    assert_eq!(given_up.as_array().unwrap().len(), 1, "{plan}");
    assert_eq!(
        (
            &given_up[0]["topic"],
            &given_up[0]["first_offset"],
            &given_up[0]["last_offset"]
        ),
        (&"orders".into(), &1.into(), &1.into())
    );

    let (_, wrong) = salvage(&data, &["--give-up", &format!("group:{}", lsn + 1)], 8);
    assert!(wrong.contains("is not named"), "{wrong}");
    salvage(&data, &["--restore", &way], 2);
    assert_eq!(salvage(&data, &[], 8).0, plan, "nothing was changed");
    let (done, _) = salvage(&data, &["--give-up", &way], 0);
    let copies = data.join(done["copies"].as_str().unwrap());
    let copy = copies.join("journal").join(path.file_name().unwrap());
    let mut kept = fs::read(copy).unwrap();
    kept[group + 40] ^= 1;
    assert!(
        kept[group..].windows(6).any(|w| w == b"lost-1"),
        "the copy has what was there"
    );
    assert_eq!(salvage(&data, &[], 0).0["starts"], true);

    broker.restart();
    let corrupt = broker.run(&["consume", "orders", "--exit-at-end", "-f", "%o %v\n"]);
    let (out, told) = ended(&corrupt, 7);
    assert!(
        out.starts_with("0 first\n") && told.contains("offsets 1 to 1 are damaged"),
        "{out}{told}"
    );
    produce(&broker, "orders", "new\n");
    let behind = broker.run(&["consume", "orders", "-o", "2", "--exit-at-end", "-f", "%o %v\n"]);
    assert_eq!(ended(&behind, 0).0, "2 new\n");
    let other = broker.run(&["consume", "other", "--exit-at-end", "-f", "%o %v\n"]);
    assert_eq!(ended(&other, 0).0, "0 behind\n");
    what_was_given_up_is_named(&mut broker);
}

/// For as long as it is not trimmed.
fn what_was_given_up_is_named(broker: &mut Broker) {
    let data = broker.data.clone();
    broker.signal(Signal::TERM);
    broker.child.wait().unwrap();
    let verified = naru()
        .args(["log", "verify", "--format", "json"])
        .arg(&data)
        .output()
        .unwrap();
    let verified: Value = serde_json::from_str(&ended(&verified, 8).0).unwrap();
    let mut findings = verified["findings"].as_array().unwrap().clone();
    findings.retain(|finding| finding["effect"] != "note");
    assert_eq!(
        (findings.len(), &findings[0]["kind"]),
        (1, &"quarantined".into()),
        "{verified}"
    );
}

#[test]
fn format_that_is_gone_is_restored_at_no_loss() {
    let mut broker = Broker::start();
    ended(&broker.run(&["topic", "create", "orders"]), 0);
    produce(&broker, "orders", "first\n");
    broker.signal(Signal::TERM);
    broker.child.wait().unwrap();
    let data = broker.data.clone();
    let text = fs::read(data.join("FORMAT")).unwrap();
    fs::remove_file(data.join("FORMAT")).unwrap();
    assert!(refused_start(&data).contains("naru log salvage"));
    let (plan, _) = salvage(&data, &[], 8);
    assert!(
        plan["command"].as_str().unwrap().ends_with("--restore format"),
        "{plan}"
    );
    assert_eq!(plan["given_up"], serde_json::json!([]));
    salvage(&data, &["--restore", "format"], 0);
    assert_eq!(fs::read(data.join("FORMAT")).unwrap(), text);
    broker.restart();
    let all = broker.run(&["consume", "orders", "--exit-at-end", "-f", "%o %v\n"]);
    assert_eq!(ended(&all, 0).0, "0 first\n");
}

/// What a shell makes of a command, standing somewhere else than the broker did.
fn pasted(command: &str) -> Output {
    let script = format!("naru() {{ \"$NARU\" \"$@\"; }}; {command}");
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &script]).env("NARU", naru().get_program());
    shell.current_dir("/").output().unwrap()
}

/// Names that a shell would take apart, for a flag, or that are no text.
#[test]
fn commands_that_are_shown_can_be_pasted_whatever_the_directory_is_called() {
    use std::os::unix::ffi::OsStrExt as _;
    let mut broker = Broker::start();
    ended(&broker.run(&["topic", "create", "orders"]), 0);
    broker.signal(Signal::TERM);
    broker.child.wait().unwrap();
    let mut data = broker.data.clone();
    for name in [&b"it's my data"[..], b"-n \"$HOME\"", b"na\xffru's \xe4"] {
        let odd = data.with_file_name(std::ffi::OsStr::from_bytes(name));
        fs::rename(&data, &odd).unwrap();
        data = odd;
        let text = fs::read(data.join("FORMAT")).unwrap();
        fs::remove_file(data.join("FORMAT")).unwrap();
        // A broker takes text alone; who has copied its directory may have called it anything.
        let plan = if data.to_str().is_some() {
            let [doctor, ways] = told_by_a_broker(&data);
            assert_eq!(pasted(&doctor).status.code(), Some(8), "{doctor}");
            pasted(&ways)
        } else {
            naru().args(["log", "salvage"]).arg(&data).output().unwrap()
        };
        let (plan, _) = ended(&plan, 8);
        let way = plan.lines().last().unwrap();
        assert!(way.ends_with(" --restore format"), "{plan}");
        ended(&pasted(way), 0);
        assert_eq!(fs::read(data.join("FORMAT")).unwrap(), text, "{way}");
    }
}

/// The commands that a broker names that is refused a start.
fn told_by_a_broker(data: &Path) -> [String; 2] {
    let output = serve(data).stderr(Stdio::piped()).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    let events = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let said: Vec<_> = events
        .filter_map(|event| Some(event["msg"].as_str()?.to_owned()))
        .collect();
    ["what is wrong is told by: ", "the ways out are told by: "].map(|by| {
        let behind = said.iter().find_map(|said| said.strip_prefix(by));
        behind.unwrap_or_else(|| panic!("{log}")).to_owned()
    })
}

/// As an operator goes: a start is refused and names salvage, the command that is shown is taken word for word, until a broker
/// starts. The ways in the order of taking, and what was said of the first.
fn as_shown(data: &Path) -> (Vec<String>, String) {
    let (mut taken, mut said) = (Vec::new(), String::new());
    for _ in 0..4 {
        what_the_broker_and_the_doctor_say(data);
        let (plan, _) = salvage(data, &[], 8);
        if said.is_empty() {
            said = plan["obstacles"][0]["what"].as_str().unwrap().to_owned();
        }
        let command = plan["command"]
            .as_str()
            .unwrap_or_else(|| panic!("no way out: {plan}"));
        // Paths of a temporary directory need no quotes.
        let words: Vec<_> = command.split(' ').collect();
        let ways = words
            .windows(2)
            .filter(|pair| matches!(pair[0], "--give-up" | "--restore"));
        taken.extend(ways.map(|pair| pair[1].to_owned()));
        assert_eq!(words[0], "naru", "{command}");
        let output = naru().args(&words[1..]).output().unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
        let output = naru()
            .args(["log", "salvage", "--format", "json"])
            .arg(data)
            .output()
            .unwrap();
        if output.status.success() {
            return (taken, said);
        }
    }
    panic!("it never ends: {taken:?}");
}

fn consume(broker: &Broker, topic: &str, more: &[&str]) -> String {
    let mut args = vec![
        "consume",
        topic,
        "-p",
        "0",
        "--exit-at-end",
        "--skip-corrupt",
        "-f",
        "%o %v\n",
    ];
    args.extend(more);
    let output = broker.run(&args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 7)), "{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Values that do not compress, one a line.
fn noise(seed: u64, lines: usize) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut line = || (0..500).map(|_| random.alphanumeric()).collect::<String>() + "\n";
    (0..lines).map(|_| line()).collect()
}

fn numbered(lines: &str) -> String {
    lines
        .lines()
        .enumerate()
        .map(|(at, line)| format!("{at} {line}\n"))
        .collect()
}

fn remove_checkpoints(data: &Path) {
    for name in ["checkpoint.0", "checkpoint.1"] {
        fs::remove_file(data.join(name)).unwrap();
    }
}

/// More than the ring of journal files holds, so that the oldest records are in segments alone.
fn larger_than_the_journal() -> (Broker, String) {
    let mut broker = Broker::start();
    for topic in ["orders", "other", "gone", "empty"] {
        ended(&broker.run(&["topic", "create", topic, "--partitions", "2"]), 0);
    }
    produce(&broker, "other", "early\n");
    produce(&broker, "gone", "gone\n");
    ended(&broker.run(&["topic", "delete", "gone", "--yes"]), 0);
    let mut all = String::new();
    for round in 0..16 {
        let lines = noise(round, 800);
        produce(&broker, "orders", &lines);
        all.push_str(&lines);
        if round % 5 == 4 {
            broker.signal(Signal::TERM);
            broker.child.wait().unwrap();
            broker.restart();
        }
    }
    broker.kill();
    (broker, all)
}

#[test]
fn without_any_checkpoint_segments_and_journal_tell_all_that_there_is() {
    let (mut broker, all) = larger_than_the_journal();
    let data = broker.data.clone();
    remove_checkpoints(&data);
    let (taken, said) = as_shown(&data);
    assert_eq!(taken, ["checkpoint"]);
    assert!(said.contains("and the journal from group"), "{said}");
    broker.restart();
    assert!(
        consume(&broker, "orders", &[]) == numbered(&all),
        "records differ"
    );
    assert_eq!(consume(&broker, "other", &[]), "0 early\n");
    let (topics, _) = ended(&broker.run(&["topic", "list", "--format", "json"]), 0);
    assert!(topics.contains("orders") && !topics.contains("gone"), "{topics}");
    produce(&broker, "orders", "new\n");
    let end = all.lines().count();
    assert_eq!(
        consume(&broker, "orders", &["-o", &end.to_string()]),
        format!("{end} new\n")
    );
    produce(&broker, "other", "late\n");
    assert_eq!(consume(&broker, "other", &[]), "0 early\n1 late\n");
    produce(&broker, "empty", "first\n");
    assert_eq!(consume(&broker, "empty", &[]), "0 first\n");
    broker.signal(Signal::TERM);
    broker.child.wait().unwrap();
    ended(&naru().args(["log", "verify"]).arg(&data).output().unwrap(), 0);
}

#[test]
fn without_any_checkpoint_a_young_directory_loses_nothing() {
    let mut broker = Broker::start();
    ended(&broker.run(&["topic", "create", "orders"]), 0);
    produce(&broker, "orders", "first\nsecond\n");
    broker.kill();
    let data = broker.data.clone();
    fs::write(data.join("checkpoint.0"), "rubbish").unwrap();
    let _ = fs::remove_file(data.join("checkpoint.1"));
    let (taken, said) = as_shown(&data);
    assert_eq!(taken, ["checkpoint"]);
    assert!(said.contains("nothing is given up"), "{said}");
    broker.restart();
    produce(&broker, "orders", "third\n");
    assert_eq!(consume(&broker, "orders", &[]), "0 first\n1 second\n2 third\n");
}

/// A broker that was killed, whose newest journal file begins with records of one topic, with the path of that file.
fn killed_with_two_journal_files() -> (Broker, PathBuf) {
    let mut broker = Broker::start();
    for topic in ["orders", "other"] {
        ended(&broker.run(&["topic", "create", topic]), 0);
    }
    produce(&broker, "orders", "first\n");
    broker.signal(Signal::TERM);
    broker.child.wait().unwrap();
    broker.restart();
    for line in ["lost-1\n", "second\n", "third\n"] {
        produce(&broker, "orders", line);
    }
    produce(&broker, "other", "behind\n");
    broker.kill();
    let (path, _) = group_of(&broker.data, b"lost-1");
    (broker, path)
}

/// Starts the broker, which goes on with offsets that nobody has had: `before` are those that were acknowledged.
fn goes_on(broker: &mut Broker, topic: &str, before: i64) -> String {
    broker.restart();
    let there = consume(broker, topic, &[]);
    produce(broker, topic, "new\n");
    let after = consume(broker, topic, &[]);
    let new = after.strip_prefix(&there).unwrap();
    let (offset, value) = new.split_once(' ').unwrap();
    assert!(
        value == "new\n" && offset.parse::<i64>().unwrap() >= before,
        "{new}"
    );
    there
}

#[test]
fn a_cut_journal_file_gives_up_its_tail_and_no_offset_twice() {
    let (mut broker, path) = killed_with_two_journal_files();
    let data = broker.data.clone();
    let (_, third) = group_of(&data, b"third");
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(u64::try_from(third).unwrap()).unwrap();
    let (taken, said) = as_shown(&data);
    assert!(said.contains("less than its header says"), "{said}");
    assert!(taken.len() == 1 && taken[0].starts_with("tail:"), "{taken:?}");
    let there = goes_on(&mut broker, "orders", 4);
    assert_eq!(there, "0 first\n1 lost-1\n2 second\n");
    goes_on_after_a_kill(&mut broker);
}

fn goes_on_after_a_kill(broker: &mut Broker) {
    broker.kill();
    broker.restart();
    let all = consume(broker, "orders", &[]);
    assert!(all.ends_with(" new\n"), "{all}");
}

#[test]
fn a_journal_that_is_gone_gives_up_all_behind_the_checkpoint() {
    for whole in [false, true] {
        let (mut broker, _) = killed_with_two_journal_files();
        let data = broker.data.clone();
        if whole {
            fs::remove_dir_all(data.join("journal")).unwrap();
        } else {
            for entry in fs::read_dir(data.join("journal")).unwrap() {
                fs::remove_file(entry.unwrap().path()).unwrap();
            }
        }
        let (taken, _) = as_shown(&data);
        assert!(taken.len() == 1 && taken[0].starts_with("tail:"), "{taken:?}");
        let there = goes_on(&mut broker, "orders", 4);
        assert!(there.starts_with("0 first\n"), "{there}");
        goes_on_after_a_kill(&mut broker);
    }
}

#[test]
fn a_header_and_the_first_group_that_are_gone_cost_that_group_alone() {
    let (mut broker, path) = killed_with_two_journal_files();
    let data = broker.data.clone();
    let (_, first) = group_of(&data, b"lost-1");
    let mut bytes = fs::read(&path).unwrap();
    bytes[..first + 4096].fill(0);
    fs::write(&path, bytes).unwrap();
    let (taken, said) = as_shown(&data);
    assert!(said.contains("its header is damaged"), "{said}");
    assert!(
        taken.len() == 2 && taken[0].starts_with("header:") && taken[1].starts_with("group:"),
        "{taken:?}"
    );
    let there = goes_on(&mut broker, "orders", 4);
    assert_eq!(there, "0 first\n2 second\n3 third\n");
    assert_eq!(consume(&broker, "other", &[]), "0 behind\n");
    goes_on_after_a_kill(&mut broker);
}

#[test]
fn a_journal_file_that_is_missing_in_the_middle_gives_up_its_groups() {
    let mut broker = Broker::start();
    ended(&broker.run(&["topic", "create", "orders"]), 0);
    let mut all = Vec::new();
    for round in 0..7 {
        let lines = noise(round, 800);
        produce(&broker, "orders", &lines);
        all.extend(lines.lines().map(str::to_owned));
    }
    broker.kill();
    let data = broker.data.clone();
    let (middle, _) = group_of(&data, all[2600].as_bytes());
    let (newest, _) = group_of(&data, all[5599].as_bytes());
    assert_ne!(middle, newest);
    fs::remove_file(&middle).unwrap();
    let (taken, _) = as_shown(&data);
    assert!(taken.len() == 1 && taken[0].starts_with("group:"), "{taken:?}");
    let there = goes_on(&mut broker, "orders", 5600);
    let mut last = -1;
    for line in there.lines() {
        let (offset, value) = line.split_once(' ').unwrap();
        let offset: i64 = offset.parse().unwrap();
        assert!(
            offset > last && value == all[usize::try_from(offset).unwrap()],
            "{offset}"
        );
        last = offset;
    }
    assert_eq!(last, 5599);
    assert!(there.lines().count() < 5600, "nothing was missing");
}
