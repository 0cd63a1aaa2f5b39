//! A step of an encoder: tokens are gathered until an input is whole, and inputs that are whole are read in one pass.
//!
//! Whoever plans steps deals prompt tokens out in chunks; an encoder sees nothing before it sees all. An input's
//! pages are written and read within the pass.

use super::{Engine, NumericFault, Sequence, SequenceId, Step, Work};
use crate::kv::Kvs;
use crate::model::Model;
use crate::model::forward::{Row, Tap};

impl Engine {
    /// `rows` are those of `work`, of the sequences `ids`, which have pages for them.
    pub(super) fn encode(&mut self, work: &[Work<'_>], rows: &[Row], ids: &[SequenceId], tap: Tap<'_>) -> Step<'_> {
        for row in rows {
            if let Some(sequence) = self.sequences.get_mut(ids[row.sequence]) {
                sequence.gather(row.token);
            }
        }
        let (mut inputs, mut whole) = (Vec::new(), Vec::new());
        for (sequence, id) in ids.iter().enumerate() {
            let tokens = self.sequences.get_mut(*id).and_then(Sequence::whole).unwrap_or_default();
            let row = |(token, position)| Row { sequence, position, token, wants_logits: false };
            if !tokens.is_empty() {
                whole.push(*id);
            }
            inputs.extend(tokens.into_iter().zip(0..).map(row));
        }
        let table = |id| self.sequences.get(id).map_or(&[][..], |sequence: &Sequence| &sequence.table);
        let tables = ids.iter().map(|id| table(*id)).collect();
        let mut kvs = Kvs { store: self.pages.store_mut(), tables };
        let mut faulted = vec![false; ids.len()];
        if let Model::Encoder(model) = &self.model {
            model.forward(&mut self.exec, &inputs, &mut kvs, &mut self.buffers, tap);
            for (place, row) in inputs.iter().enumerate() {
                if let Some(Sequence { pooled: Some(pooled), .. }) = self.sequences.get_mut(ids[row.sequence]) {
                    model.pool(&self.buffers, place, pooled);
                }
                faulted[row.sequence] |= self.buffers.faulted[place];
            }
            for id in whole {
                if let Some(Sequence { pooled: Some(pooled), .. }) = self.sequences.get_mut(id) {
                    model.score(&mut self.exec, &mut self.buffers, pooled);
                }
            }
        }
        let is_faulted = |work: &Work<'_>| ids.iter().position(|id| *id == work.sequence).is_some_and(|i| faulted[i]);
        let answers =
            work.iter().map(|work| vec![if is_faulted(work) { Err(NumericFault) } else { Ok(None) }]).collect();
        Step { answers, logits: &[], vocab: self.model.vocab() }
    }
}
