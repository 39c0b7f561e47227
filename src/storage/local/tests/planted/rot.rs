//! Finder: one piece of damage in one file of a directory whose broker was killed. No altered record is ever given out,
//! nothing is missing in silence, and what there are two copies of is not lost.

use super::crash::{open, run, settings};
use super::past::{Client, Past};
use super::*;
use crate::planted::hunt::Hunt;

pub(super) const ROT: Finder = Finder {
    name: "rot at rest",
    unit: "images",
    budget: 5000,
    clean: 400,
    search,
};

const ACTS: usize = 50;
/// Damaged images of one directory.
const IMAGES: usize = 60;

fn search(hunt: &Hunt, first: u64) {
    let mut seed = first;
    while hunt.goes_on() {
        let mut rng = fastrand::Rng::with_seed(seed);
        let disk = new_disk();
        let settings = settings(seed);
        let mut rig = open(&disk, &settings).unwrap();
        let client = Client::new(&rig, Past::default());
        hunt.watch(|| {
            run(&mut rig, &client, &mut rng, ACTS, || true);
            while rig.inline.journal().unwrap() == Round::Worked {}
            // The last group is proven to be one.
            rig.inline.seal();
            if rng.bool() {
                while rig.inline.apply().unwrap() == Round::Worked {}
            }
        });
        for _ in 0..IMAGES {
            hunt.attempt(|| damage(&rig, &client, &settings, &mut rng));
        }
        seed += 1;
    }
}

fn damage(rig: &Rig, client: &Client, settings: &Settings, rng: &mut fastrand::Rng) {
    let image = rig.disk.after_kill();
    let files = image.files();
    let kind = *rng
        .choice(&["journal/", "topics/", "checkpoint."])
        .expect("there are some");
    let chosen = files
        .iter()
        .filter(|(path, bytes)| path.starts_with(kind) && *bytes > 0);
    let Some((path, bytes)) = rng.choose_multiple(chosen, 1).pop() else {
        return;
    };
    let at = place(&image, path, *bytes, rng);
    let how = rng.u32(0..3);
    match how {
        0 => image.zero_sector(path, at).unwrap(),
        1 => image.make_unreadable(path, at, 1).unwrap(),
        _ => image.flip_bit(path, at, rng.u32(0..8)).unwrap(),
    }
    let what = format!("{path} at {at} damaged ({how})");
    let past = client.past.lock().unwrap().clone();
    let applied = rig.store.status().applied == client.durable();
    let needless = kind == "checkpoint." || path.ends_with(".index");
    match open(&image, settings) {
        Ok(rig) => {
            let lost = rig.store.report().lost_groups > 0;
            let reported = past.check_damaged(&rig, client.durable(), lost);
            let twice = needless || (applied && kind == "journal/");
            assert!(
                reported == 0 || !twice,
                "{what}: lost, and there was a second copy"
            );
        }
        Err(OpenError::Refused(why)) => assert!(!needless, "{what}: refused: {why}"),
        Err(other) => panic!("{what}: {other}"),
    }
}

/// Anywhere, or where a bit means most: in what stands in front of a batch or a group.
fn place(image: &SimDisk, path: &str, bytes: u64, rng: &mut fastrand::Rng) -> u64 {
    let content = image.read_file(path).unwrap();
    let heads = if path.ends_with(".log") {
        batches_in(&content)
    } else if path.ends_with(".journal") {
        (8192..content.len())
            .step_by(4096)
            .filter(|at| content[*at..].starts_with(b"NGRP"))
            .collect()
    } else {
        Vec::new()
    };
    match rng.choice(&heads) {
        Some(head) if rng.bool() => u64::try_from(*head).unwrap() + rng.u64(0..61),
        _ => rng.u64(0..bytes),
    }
}

fn batches_in(content: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Ok(header) = BatchHeader::parse(&content[at..]) {
        found.push(at);
        at += usize::try_from(header.total_bytes()).unwrap();
        if at >= content.len() {
            break;
        }
    }
    found
}
