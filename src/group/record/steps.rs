//! Steps as they are stored.

use super::DecodeError;
use crate::group::step::{StepAppend, StepResult, StepTaken, Stepper, Steppers};
use crate::model::{Acks, GroupId, LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};
use crate::pb::internal as pb;

pub(super) fn encode(group: &GroupId, step: &StepTaken) -> pb::StepTaken {
    let forgotten = step
        .forgotten
        .iter()
        .map(|(group, producer)| pb::ForgottenProducer {
            group: group.to_string(),
            producer_id: producer.0,
        });
    pb::StepTaken {
        group: group.to_string(),
        producer_id: step.producer.0,
        producer_epoch: i32::from(step.epoch.0),
        result: Some(encode_result(&step.result)),
        forgotten: forgotten.collect(),
    }
}

pub(super) fn decode(stored: pb::StepTaken) -> Result<StepTaken, DecodeError> {
    let result = decode_result(stored.result.ok_or(DecodeError::NoStep)?)?;
    let (producer, epoch) = decode_producer(stored.producer_id, stored.producer_epoch, result.sequence)?;
    let forgotten = stored.forgotten.into_iter();
    let forgotten = forgotten.map(|stored| Ok((stored.group.parse()?, ProducerId(stored.producer_id))));
    Ok(StepTaken {
        producer,
        epoch,
        result,
        forgotten: forgotten.collect::<Result<_, DecodeError>>()?,
    })
}

pub(super) fn encode_all(steppers: &Steppers) -> Vec<pb::StepProducer> {
    let producers = steppers.iter().map(|(producer, stepper)| pb::StepProducer {
        producer_id: producer.0,
        producer_epoch: i32::from(stepper.epoch.0),
        known_steps: stepper.known,
        results: stepper.results.iter().map(encode_result).collect(),
    });
    producers.collect()
}

pub(super) fn decode_one(stored: pb::StepProducer) -> Result<(ProducerId, Stepper), DecodeError> {
    let results = stored.results.into_iter().map(decode_result);
    let stepper = Stepper {
        epoch: ProducerEpoch::default(),
        known: stored.known_steps,
        results: results.collect::<Result<_, _>>()?,
    };
    let newest = stepper.results.back().ok_or(DecodeError::NoStep)?.sequence;
    let (producer, epoch) = decode_producer(stored.producer_id, stored.producer_epoch, newest)?;
    Ok((producer, Stepper { epoch, ..stepper }))
}

fn encode_result(result: &StepResult) -> pb::StepResult {
    let appends = result.appends.iter().map(|append| pb::StepAppend {
        base_offset: append.base.get(),
        last_offset: append.last.get(),
        append_ms: append.append_time.0,
        leader_epoch: append.leader_epoch.0,
    });
    pb::StepResult {
        sequence: result.sequence.0,
        at_ms: result.at.0,
        memory: result.acks == Acks::Memory,
        appends: appends.collect(),
    }
}

fn decode_result(stored: pb::StepResult) -> Result<StepResult, DecodeError> {
    let offset = |offset| Offset::new(offset).ok_or(DecodeError::Offset(offset));
    let appends = stored.appends.into_iter().map(|stored| {
        Ok(StepAppend {
            base: offset(stored.base_offset)?,
            last: offset(stored.last_offset)?,
            append_time: Timestamp(stored.append_ms),
            leader_epoch: LeaderEpoch(stored.leader_epoch),
        })
    });
    Ok(StepResult {
        sequence: Sequence(stored.sequence),
        at: Timestamp(stored.at_ms),
        acks: if stored.memory { Acks::Memory } else { Acks::Fsync },
        appends: appends.collect::<Result<_, DecodeError>>()?,
    })
}

fn decode_producer(
    id: i64,
    epoch: i32,
    sequence: Sequence,
) -> Result<(ProducerId, ProducerEpoch), DecodeError> {
    match i16::try_from(epoch) {
        Ok(known) if id >= 0 && known >= 0 && sequence.0 >= 0 => Ok((ProducerId(id), ProducerEpoch(known))),
        Ok(_) | Err(_) => Err(DecodeError::Stamp {
            id,
            epoch,
            sequence: sequence.0,
        }),
    }
}
