//! Options of a group consumer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::consumer::GroupConsumer;
use super::handle::GroupHandle;
use super::handover::Handover;
use super::hooks::{Hooks, hook};
use super::keeper::{Keeper, join};
use super::membership::Member;
use super::proposer::Proposer;
use super::shared::Shared;
use crate::client::{Client, Error, ProposalWanted, Reset, Subscription, TopicPartition};
use crate::rt::{IdSource, RandomIds};

/// Orders of the broker that wait for the hooks of a program.
const JOBS_WAITING: usize = 64;

/// Longest part of a client id in a member id, in bytes.
const CLIENT_ID_BYTES_MAX: usize = 40;

/// When a consumer commits by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCommit {
    /// So often what was processed: handed out, and followed by asking for the next one. Also when partitions are handed over.
    AfterProcessing {
        /// How often.
        every: Duration,
    },
    /// Never.
    Off,
}

impl Default for AutoCommit {
    fn default() -> Self {
        Self::AfterProcessing {
            every: Duration::from_secs(1),
        }
    }
}

/// What the builder collects.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) group: Arc<str>,
    pub(super) subscription: Subscription,
    pub(super) instance: Option<String>,
    pub(super) reset: Reset,
    pub(super) prefetch_bytes: u32,
    pub(super) auto_commit: AutoCommit,
    pub(super) hooks: Hooks,
    pub(super) proposer: Proposer,
}

/// Options of a [`GroupConsumer`]; all have defaults but what is read.
#[derive(Clone, Debug)]
pub struct GroupConsumerBuilder {
    client: Client,
    options: Options,
}

impl GroupConsumerBuilder {
    pub(in crate::client) fn new(client: Client, group: &str) -> Self {
        Self {
            client,
            options: Options {
                group: group.into(),
                subscription: Subscription::default(),
                instance: None,
                reset: Reset::default(),
                prefetch_bytes: 2 << 20,
                auto_commit: AutoCommit::default(),
                hooks: Hooks::default(),
                proposer: Proposer::default(),
            },
        }
    }

    /// Topics to read, also such that do not exist yet.
    #[must_use]
    pub fn topics<T: Into<String>>(mut self, topics: impl IntoIterator<Item = T>) -> Self {
        self.options.subscription.topics = topics.into_iter().map(Into::into).collect();
        self
    }

    /// Topics to read, by globs over their names: `*` any text, `?` one character. Also such that are made later.
    #[must_use]
    pub fn patterns<T: Into<String>>(mut self, patterns: impl IntoIterator<Item = T>) -> Self {
        self.options.subscription.patterns = patterns.into_iter().map(Into::into).collect();
        self
    }

    /// Makes it a static member: one that starts again under this name within the session timeout finds its partitions as
    /// they were, and nobody else moves. Of two at a time the newer one wins, and the older one ends with
    /// `FENCED_INSTANCE_ID`.
    #[must_use]
    pub fn instance_id(mut self, id: impl Into<String>) -> Self {
        self.options.instance = Some(id.into());
        self
    }

    /// Where to begin in partitions where the group has committed nothing, or where what it would read next is gone.
    /// Partitions that a topic gets while it is read begin at their first record also with [`Reset::Latest`]. Default: [`Reset::Error`].
    #[must_use]
    pub fn reset(mut self, reset: Reset) -> Self {
        self.options.reset = reset;
        self
    }

    /// Bytes that are fetched ahead of the program, of each partition. Default: 2 MiB.
    #[must_use]
    pub fn prefetch_bytes(mut self, bytes: u32) -> Self {
        self.options.prefetch_bytes = bytes;
        self
    }

    /// Whether it commits by itself. Default: every second, what was processed.
    #[must_use]
    pub fn auto_commit(mut self, auto_commit: AutoCommit) -> Self {
        self.options.auto_commit = auto_commit;
        self
    }

    /// Called before new partitions are read; the handle may [`seek`](GroupHandle::seek).
    #[must_use]
    pub fn on_assigned<F, Fut>(mut self, on_assigned: F) -> Self
    where
        F: Fn(Vec<TopicPartition>, GroupHandle) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.options.hooks.assigned = hook(on_assigned);
        self
    }

    /// Called before partitions are handed over, when what was handed out of them is processed; the handle may still
    /// [`commit`](GroupHandle::commit). Given up at three quarters of the group's hand-off timeout.
    #[must_use]
    pub fn on_revoked<F, Fut>(mut self, on_revoked: F) -> Self
    where
        F: Fn(Vec<TopicPartition>, GroupHandle) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.options.hooks.revoked = hook(on_revoked);
        self
    }

    /// Called when partitions are gone already: somebody else may read them, and nothing can be committed.
    #[must_use]
    pub fn on_lost<F, Fut>(mut self, on_lost: F) -> Self
    where
        F: Fn(Vec<TopicPartition>, GroupHandle) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.options.hooks.lost = hook(on_lost);
        self
    }

    /// The assignor of a group with `assignor = leader`, called while this member leads: gives member ids, and what each is to hold.
    /// It should be the same function in all members, quick, and depend on nothing but its argument. Every partition goes to exactly
    /// one member that subscribes to its topic; what is not so the broker refuses, see [`GroupHandle::refused_proposal`], and
    /// assigns by itself after `proposal.timeout.ms`. Without such a function it does that at once.
    #[must_use]
    pub fn propose<F>(mut self, assign: F) -> Self
    where
        F: Fn(&ProposalWanted) -> Vec<(String, Vec<TopicPartition>)> + Send + Sync + 'static,
    {
        self.options.proposer = Proposer::new(assign);
        self
    }

    /// Joins the group, over a connection of its own. Partitions come when the group has some for it.
    ///
    /// # Errors
    /// `Usage` without a topic or pattern; `Broker` with `INVALID_NAME`, `GROUP_FULL` or `UNRELEASED_INSTANCE_ID`, and those
    /// of every request.
    pub async fn build(self) -> Result<GroupConsumer, Error> {
        let subscription = &self.options.subscription;
        if subscription.topics.is_empty() && subscription.patterns.is_empty() {
            return Err(Error::Usage(
                "a group consumer needs a topic or a pattern to read".into(),
            ));
        }
        let data = self.client.link;
        let control = Client {
            link: data.another().await?,
        };
        let mut member = Member::new(member_id(&data.config.client_id), self.options.instance.clone());
        let shared = Arc::new(Shared::new(control, data, self.options, member.identity()));
        // From here on whoever drops the future lets the connection go.
        let (jobs, queue) = mpsc::channel(JOBS_WAITING);
        let consumer = GroupConsumer::new(Arc::clone(&shared), jobs.clone());
        let first = join(&shared, &mut member).await?;
        let handover = Handover::new(Arc::clone(&shared));
        let keeper = Keeper {
            shared: Arc::clone(&shared),
            member,
            jobs,
            proposed: None,
        };
        let tasks = &shared.control.link.tasks;
        tasks.spawn(|stop| async move {
            tokio::select! {
                () = keeper.run(first) => {}
                () = stop.cancelled() => {}
            }
        });
        tasks.spawn(|stop| async move {
            tokio::select! {
                () = handover.run(queue) => {}
                () = stop.cancelled() => {}
            }
        });
        Ok(consumer)
    }
}

/// Another member id than anybody had: what the client calls itself, as far as an id can hold it, and random digits.
pub(super) fn member_id(client_id: &str) -> String {
    let fits = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let mut id: String = client_id.chars().filter(fits).take(CLIENT_ID_BYTES_MAX).collect();
    if id.is_empty() {
        id.push_str("consumer");
    }
    id.push('-');
    for byte in RandomIds.uuid().iter().take(8) {
        id.push_str(&format!("{byte:02x}"));
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_id_names_the_client_and_is_nobody_elses() {
        let id = member_id("till 3/\u{fc}x");
        assert!(
            id.starts_with("till3x-") && id.len() == "till3x-".len() + 16,
            "{id}"
        );
        assert_ne!(member_id("x"), member_id("x"));
        assert!(member_id("").starts_with("consumer-"));
        let long = member_id(&"x".repeat(256));
        assert!(long.len() <= 64, "{long}");
    }
}
