//! What is done to a data directory without a broker, and still needs what a broker keeps above its engine.

use std::collections::BTreeMap;

use super::engine::with_causes;
use crate::broker::{self, Recovered};
use crate::model::TopicId;
use crate::storage::Replay;

/// Hears from `feed` what a start would hear, and says what came of it: the names of the topics, and why a start would not
/// understand it, if so.
pub fn state_of(feed: &mut dyn FnMut(&mut dyn Replay)) -> (BTreeMap<TopicId, String>, Option<String>) {
    let mut recovered = Recovered::new(&broker::Settings::default());
    feed(&mut recovered);
    let failure = recovered.failure().map(|failure| with_causes(failure));
    (recovered.topic_names(), failure)
}
