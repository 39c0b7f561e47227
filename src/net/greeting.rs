//! A connection before its greeting: small limits, one deadline for everything, and no way to reach the broker.

use std::sync::Arc;

use super::frame::FrameOut;
use super::lookalike;
use super::protocol::{Greeting, Protocol};
use super::settings::Settings;
use super::socket::{Inbound, Outbound};
use super::{Counters, Hangup};
use crate::model::ErrorCode;

/// How the greeting ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Greeted {
    /// The connection is open now, to this software.
    Welcome(Arc<str>),
    /// It was refused, and told so.
    Refused,
    /// It is closed without a word.
    Gone,
}

/// Reads frames until one is the greeting.
pub(super) async fn greet<P: Protocol>(
    inbound: &mut Inbound,
    outbound: &mut Outbound,
    protocol: &P,
    settings: &Settings,
    counters: &Counters,
) -> Greeted {
    let conversation = converse(inbound, outbound, protocol, settings, counters);
    match tokio::time::timeout(settings.greeting_deadline, conversation).await {
        Ok(greeted) => greeted,
        Err(_elapsed) => {
            counters.count_hangup(Hangup::Greeting);
            Greeted::Gone
        }
    }
}

async fn converse<P: Protocol>(
    inbound: &mut Inbound,
    outbound: &mut Outbound,
    protocol: &P,
    settings: &Settings,
    counters: &Counters,
) -> Greeted {
    let mut frames = 0;
    loop {
        if frames == 0
            && let Some(foreign) = lookalike::recognize(inbound.frames.unread())
        {
            counters.count_bad_input(ErrorCode::WrongProtocol);
            outbound.push(FrameOut::plain(foreign.line(settings.http_port)));
            return refused(outbound).await;
        }
        let frame = match inbound.frames.take(settings.greeting_frame_bytes_max) {
            Ok(Some(frame)) => frame,
            Ok(None) if inbound.received_bytes() > settings.greeting_bytes_max => {
                counters.count_hangup(Hangup::Greeting);
                return Greeted::Gone;
            }
            Ok(None) => match inbound.receive().await {
                Ok(1..) => continue,
                Ok(0) | Err(_) => return Greeted::Gone,
            },
            Err(error) => {
                let error = protocol.frame_error(error);
                counters.count_bad_input(error.code);
                outbound.push(protocol.encode(0, Err(error)));
                return refused(outbound).await;
            }
        };
        frames += 1;
        if frames > settings.greeting_frames_max {
            counters.count_hangup(Hangup::Greeting);
            return Greeted::Gone;
        }
        match protocol.greet(frame) {
            Greeting::Welcome { answer, software } => {
                outbound.push(answer);
                return Greeted::Welcome(software);
            }
            Greeting::Answer(answer) => {
                outbound.push(answer);
                if outbound.flush_all().await.is_err() {
                    return Greeted::Gone;
                }
            }
            Greeting::Refuse { code, answer } => {
                counters.count_bad_input(code);
                outbound.push(answer);
                return refused(outbound).await;
            }
        }
    }
}

async fn refused(outbound: &mut Outbound) -> Greeted {
    match outbound.flush_all().await {
        Ok(()) => Greeted::Refused,
        Err(_) => Greeted::Gone,
    }
}
