//! Fetches one partition ahead of its reader, over lost connections, and checks what comes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, watch};

use super::Error;
use super::admin::{decode, offset, unexpected};
use super::link::{Link, pause_after};
use super::members::GroupMember;
use super::reader::{ConsumedBatch, ReaderOptions, Source};
use crate::model::{ErrorCode, Offset};
use crate::pb::v1 as pb;
use crate::pb::v1::{request::Body as RequestBody, response::Body as ResponseBody};
use crate::record::{Batches, check_crc};
use crate::rt::Clock;

/// Attributes: written by a broker for itself, not for readers.
const CONTROL_BIT: u16 = 1 << 5;

/// What one fetch brought.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) batches: Vec<ConsumedBatch>,
    /// Where to go on.
    pub(super) next: Offset,
    pub(super) high_watermark: Offset,
}

/// How long a fetch that the group refuses waits for news of the membership before it is tried again.
const NEWS_WAIT: Duration = Duration::from_secs(1);

/// A member of a group on whose behalf is fetched.
#[derive(Clone, Debug)]
pub(super) struct FetchAs {
    pub(super) group: Arc<str>,
    /// As the last heartbeat told it; changes with every answer.
    pub(super) member: watch::Receiver<GroupMember>,
    /// Asks for a heartbeat at once.
    pub(super) heartbeat: Arc<Notify>,
}

impl FetchAs {
    /// What the group refuses, or what is gone: whether it still is the member's decides the next heartbeat, not the reader.
    fn is_for_the_group(error: &Error) -> bool {
        error.concerns_membership()
            || error.code() == Some(ErrorCode::FencedInstanceId)
            || error.broker().is_some_and(|error| error.says_unknown_topic())
    }

    /// Waits for news of the membership. False: there will be none.
    async fn news(&mut self) -> bool {
        self.heartbeat.notify_one();
        tokio::time::timeout(NEWS_WAIT, self.member.changed())
            .await
            .unwrap_or(Ok(()))
            .is_ok()
    }
}

/// The task of one reader.
#[derive(Debug)]
pub(super) struct Fetcher {
    link: Arc<Link>,
    source: Source,
    options: ReaderOptions,
    offset: Offset,
}

impl Fetcher {
    pub(super) fn new(link: Arc<Link>, source: Source, options: ReaderOptions, offset: Offset) -> Self {
        Self {
            link,
            source,
            options,
            offset,
        }
    }

    /// Fetches until the reader is gone or an error is final, which is the last thing sent.
    pub(super) async fn run(mut self, reader: mpsc::Sender<Result<Fetched, Error>>) {
        let mut failures = 0_u32;
        let mut failing_since: Option<Duration> = None;
        loop {
            let error = match self.fetch().await {
                Ok(fetched) => {
                    (failures, failing_since) = (0, None);
                    let news = fetched.next > self.offset;
                    self.offset = fetched.next;
                    if news && reader.send(Ok(fetched)).await.is_err() {
                        return;
                    }
                    continue;
                }
                Err(error) => error,
            };
            failures = failures.saturating_add(1);
            if let Some(member) = &mut self.source.member
                && FetchAs::is_for_the_group(&error)
            {
                tracing::debug!(%error, topic = %self.source.topic, partition = self.source.partition, "fetch refused");
                if !member.news().await {
                    return;
                }
                tokio::time::sleep(pause_after(&error, self.link.backoff(), failures)).await;
                continue;
            }
            let now = self.link.clock.mono();
            let since = *failing_since.get_or_insert(now);
            if !error.is_retriable() || now.saturating_sub(since) >= self.options.give_up_after {
                // Without a reader nobody wants to know.
                let _ = reader.send(Err(error)).await;
                return;
            }
            tracing::debug!(%error, topic = %self.source.topic, partition = self.source.partition, "fetch failed");
            tokio::time::sleep(pause_after(&error, self.link.backoff(), failures)).await;
        }
    }

    async fn fetch(&mut self) -> Result<Fetched, Error> {
        let connection = self.link.connection().await?;
        let limit = connection.limits().fetch_wait_ms_max;
        let wait_ms = u32::try_from(self.options.max_wait.as_millis()).unwrap_or(u32::MAX);
        let wait_ms = if limit == 0 { wait_ms } else { wait_ms.min(limit) };
        let (group, member) = match &mut self.source.member {
            Some(of) => {
                let member = pb::GroupMember::from(&*of.member.borrow_and_update());
                (of.group.as_ref().to_owned(), Some(member))
            }
            None => (String::new(), None),
        };
        let body = RequestBody::Fetch(pb::FetchRequest {
            max_wait_ms: wait_ms.max(1),
            min_bytes: 1,
            max_bytes: self.options.fetch_bytes,
            form: pb::FetchForm::Raw.into(),
            group,
            member,
            partitions: vec![pb::FetchPartition {
                partition: Some(pb::TopicPartition {
                    topic: self.source.topic.as_ref().to_owned(),
                    topic_id: Bytes::copy_from_slice(self.source.topic_id.as_bytes()),
                    partition: self.source.partition,
                }),
                offset: self.offset.get(),
                max_bytes: self.options.fetch_bytes,
                leader_epoch: None,
            }],
        });
        let timeout = self.link.config.request_timeout + Duration::from_millis(wait_ms.into());
        match connection.call("fetch", body, timeout).await? {
            ResponseBody::Fetch(fetched) => {
                let [partition] = <[_; 1]>::try_from(fetched.partitions)
                    .map_err(|_| decode("fetch", "another number of partitions than asked for"))?;
                self.check(partition)
            }
            other => Err(unexpected("fetch", &other)),
        }
    }

    fn check(&self, fetched: pb::FetchedPartition) -> Result<Fetched, Error> {
        if let Some(error) = fetched.error {
            return Err(error.into());
        }
        let raw = match fetched.payload {
            Some(pb::fetched_partition::Payload::RawBatches(raw)) => raw,
            Some(pb::fetched_partition::Payload::Records(_)) => {
                return Err(decode("fetch", "records instead of batches"));
            }
            None => Bytes::new(),
        };
        let empty = raw.is_empty();
        let mut batches = Vec::new();
        for batch in Batches::new(raw) {
            let (header, bytes) = batch.map_err(|e| decode("a batch", &e.to_string()))?;
            if self.options.check_crc {
                let at = header.base_offset;
                check_crc(&header, &bytes).map_err(|e| decode("a batch", &format!("at offset {at}: {e}")))?;
            }
            if header.last_offset() < self.offset || header.attributes & CONTROL_BIT != 0 {
                continue;
            }
            batches.push(ConsumedBatch {
                header,
                bytes,
                from: self.offset,
            });
        }
        let next = offset("fetch", fetched.next_offset)?;
        if next < self.offset || (!empty && next == self.offset) {
            return Err(decode("fetch", "the next offset does not move on"));
        }
        Ok(Fetched {
            batches,
            next,
            high_watermark: offset("fetch", fetched.high_watermark)?,
        })
    }
}
