//! A full disk: produce is refused before anything is half written, everything else goes on from the reserve, a start on it
//! is no loop, and the broker goes on by itself when there is room.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use naru::client::{Client, CreateTopicOptions, OffsetToCommit, ProducerRecord, TrimTo};
use naru::model::{ErrorCode, Offset};

use super::story::{self, KEPT, Ledger};
use super::{has, skipped};
use crate::broker::{Setup, http_get};
use crate::peer::{PATIENCE, until};

const MIB: usize = 1 << 20;

/// A small file system of its own, unmounted at the end.
struct Mount(PathBuf);

impl Mount {
    fn tmpfs(home: &Path, options: &str) -> Option<Self> {
        Self::make(home, &["-t", "tmpfs", "-o", options, "tmpfs"])
    }

    /// 64 MiB of ext4 in a file.
    fn ext4(home: &Path) -> Option<Self> {
        let image = home.join("image");
        File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let mut make = Command::new("mkfs.ext4");
        // No blocks for root alone: this test may be root.
        let made = make.args(["-q", "-m", "0"]).arg(&image).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        Self::make(home, &["-o", "loop", image.to_str().unwrap()])
    }

    fn make(home: &Path, args: &[&str]) -> Option<Self> {
        let at = home.join("small");
        std::fs::create_dir(&at).unwrap();
        let mounted = Command::new("mount").args(args).arg(&at).output();
        mounted
            .is_ok_and(|output| output.status.success())
            .then_some(Self(at))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: the broker may end a moment later.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// Takes every byte that there is; all of it is given back when the file is removed.
fn fill(filler: &Path) {
    let mut file = File::create(filler).unwrap();
    for piece in [MIB, 4096, 1] {
        let bytes = vec![1; piece];
        let full = loop {
            if let Err(error) = file.write_all(&bytes) {
                break error;
            }
        };
        assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
    }
    let _ = file.sync_all();
}

fn setup() -> Setup {
    Setup {
        settings: vec!["storage.reserve_bytes=8MiB".to_owned()],
        ..Setup::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_tmpfs_refuses_produce_keeps_the_rest_going_and_is_left_by_itself() {
    let home = tempfile::tempdir().unwrap();
    match Mount::tmpfs(home.path(), "size=64m") {
        Some(mount) => full("tmpfs", home, &mount).await,
        None => skipped("a full tmpfs", "mounting needs root"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_ext4_refuses_produce_keeps_the_rest_going_and_is_left_by_itself() {
    let home = tempfile::tempdir().unwrap();
    if !has("mkfs.ext4") {
        return skipped("a full ext4", "there is no mkfs.ext4; apt-get install e2fsprogs");
    }
    match Mount::ext4(home.path()) {
        Some(mount) => full("ext4", home, &mount).await,
        None => skipped("a full ext4", "mounting over a loop device needs root"),
    }
}

async fn full(kind: &str, home: tempfile::TempDir, mount: &Mount) {
    let begun = crate::peer::now();
    let filler = mount.0.join("filler");
    let mut broker = setup().start_on(home, mount.0.join("data"));
    broker.log.wait_for("reserve_held");
    let client = broker.client().await;
    let told = Ledger::default();
    story::tell(&client, &told).await.unwrap();
    client
        .create_topic("large", CreateTopicOptions::default())
        .await
        .unwrap();
    produce(&client, 6).await;
    // Others take all that there is; the reserve they cannot take.
    fill(&filler);
    refused(&client).await;
    story::check(&client, &told).await;
    commit(&client, 15).await;
    broker.kill();
    broker.restart();
    let client = broker.client().await;
    story::check(&client, &told).await;
    refused(&client).await;
    assert_eq!(committed(&client).await, 15);
    commit(&client, 16).await;
    let start = client
        .trim_topic(KEPT, &[(1, TrimTo::Offset(Offset::new(2).unwrap()))])
        .await
        .unwrap();
    assert_eq!(start[0].as_ref().unwrap().get(), 2);
    client.delete_topic("large").await.unwrap();
    std::fs::remove_file(&filler).unwrap();
    goes_on(&client).await;
    // It is told when it was given up before, which depends on what the broker wrote meanwhile.
    let http = broker.http.clone();
    until("the reserve is held", || {
        http_get(&http, "/metrics").contains("\nnaru_reserve_held_bytes 8388608\n")
    })
    .await;
    broker.kill();
    broker.restart();
    let client = broker.client().await;
    story::check(&client, &told).await;
    assert_eq!(committed(&client).await, 16);
    eprintln!(
        "figures system_disk_full: on={kind} kills=2 seconds={}",
        begun.elapsed().as_secs()
    );
}

async fn produce(client: &Client, mebibytes: usize) {
    let producer = client.producer().build().await.unwrap();
    for _ in 0..mebibytes * 4 {
        let record = ProducerRecord::to("large").value(vec![b'x'; MIB / 4]);
        producer.send(record).await.unwrap();
    }
}

/// Sends until it is refused: the broker looks at the disk every second.
async fn refused(client: &Client) {
    let producer = client
        .producer()
        .delivery_timeout(Duration::from_secs(3))
        .build()
        .await
        .unwrap();
    let until = async {
        loop {
            let record = ProducerRecord::to("large").value("refused");
            if let Err(error) = producer.send(record).await {
                return error;
            }
        }
    };
    let error = tokio::time::timeout(PATIENCE, until)
        .await
        .expect("the disk is full");
    assert!(
        error.to_string().contains("STORAGE_FULL") || error.code() == Some(ErrorCode::StorageFull),
        "{error}"
    );
    assert!(error.is_retriable() && !error.may_have_taken_effect(), "{error}");
}

async fn goes_on(client: &Client) {
    let producer = client
        .producer()
        .delivery_timeout(PATIENCE)
        .build()
        .await
        .unwrap();
    let record = ProducerRecord::to("again").value("again");
    client
        .create_topic("again", CreateTopicOptions::default())
        .await
        .unwrap();
    producer.send(record).await.unwrap();
}

async fn commit(client: &Client, offset: i64) {
    let offset = Offset::new(offset).unwrap();
    client
        .commit_offsets("during", vec![OffsetToCommit::new(KEPT, 0, offset)])
        .await
        .unwrap();
}

async fn committed(client: &Client) -> i64 {
    let at = client
        .fetch_offsets("during", KEPT, &[0])
        .await
        .unwrap()
        .remove(0);
    at.unwrap().committed.unwrap().offset.get()
}
