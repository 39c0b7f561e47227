//! What a program wants to do when its partitions change.

use std::fmt;
use std::sync::Arc;

use super::GroupHandle;
use crate::client::TopicPartition;
use crate::rt::BoxFuture;

type Hook = Arc<dyn Fn(Vec<TopicPartition>, GroupHandle) -> BoxFuture<'static, ()> + Send + Sync>;

/// The hooks of a consumer; absent ones do nothing.
#[derive(Clone, Default)]
pub(super) struct Hooks {
    pub(super) assigned: Option<Hook>,
    pub(super) revoked: Option<Hook>,
    pub(super) lost: Option<Hook>,
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("assigned", &self.assigned.is_some())
            .field("revoked", &self.revoked.is_some())
            .field("lost", &self.lost.is_some())
            .finish()
    }
}

pub(super) fn hook<F, Fut>(hook: F) -> Option<Hook>
where
    F: Fn(Vec<TopicPartition>, GroupHandle) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    Some(Arc::new(move |partitions, handle| {
        Box::pin(hook(partitions, handle))
    }))
}

/// Calls a hook that is there.
pub(super) async fn call(hook: &Option<Hook>, partitions: Vec<TopicPartition>, handle: GroupHandle) {
    if let Some(hook) = hook {
        hook(partitions, handle).await;
    }
}
