//! Sequences on their way through a model: what was seen is in a cache, and rows that are shorter have padding on the
//! left.

use burn::tensor::{Device, Int, Tensor, TensorData};
use tx_core::nn::{Cache, CacheKind};
use tx_core::task::{CausalLm, Record, TextInputs};
use tx_core::{Error, Result, device};

use crate::generate::{Call, Hooks};
use crate::sample::log_softmax;

/// Rows of one length, and what the model keeps of them.
#[derive(Debug)]
pub(crate) struct Batch<'m> {
    model: &'m dyn CausalLm,
    device: &'m Device,
    cache: Cache,
    /// Positions that fit into the cache before anything is copied.
    capacity: usize,
    /// Positions of each row that go through the model at once; all if `None`.
    chunk: Option<usize>,
    /// Where in the cache each row lies. Rows are put at other places in name only, see [`Cache::reorder`].
    places: Vec<usize>,
    /// Positions of padding at each place.
    padding: Vec<usize>,
    /// What was seen at each place, padding included, if the model may have to see it again.
    seen: Vec<Vec<u32>>,
}

impl<'m> Batch<'m> {
    /// Rows that have seen nothing.
    pub(crate) fn new(call: &Call<'m>, model: &'m dyn CausalLm, padding: Vec<usize>) -> Self {
        let capacity = call.capacity();
        Self {
            model,
            device: call.device,
            cache: Cache::with_precision(&model.cache_kinds(), capacity, call.precision),
            capacity,
            chunk: call.config.prefill_chunk_size,
            places: (0..padding.len()).collect(),
            seen: vec![Vec::new(); padding.len()],
            padding,
        }
    }

    /// One row that has seen some tokens and goes on where its cache ends.
    fn resume(call: &Call<'m>, cache: Cache, seen: &[u32]) -> Self {
        Self { cache, seen: vec![seen.to_vec()], ..Self::new(call, call.model, vec![0]) }
    }

    /// What was kept of the rows.
    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Goes back to what was kept of the same rows earlier.
    pub(crate) fn restore(&mut self, cache: Cache) {
        self.seen.iter_mut().for_each(|seen| seen.truncate(cache.length()));
        self.cache = cache;
    }

    /// The cache of rows that are done.
    pub(crate) fn into_cache(self) -> Cache {
        self.cache
    }

    /// Positions seen so far, padding included.
    pub(crate) fn length(&self) -> usize {
        self.cache.length()
    }

    /// Puts row `rows[i]` at place `i`; a row may have several places, or none.
    pub(crate) fn take(&mut self, rows: &[usize]) {
        let named: Vec<usize> = rows.iter().map(|&row| self.places[row]).collect();
        let order = self.cache.reorder(&named);
        self.padding = order.iter().map(|&row| self.padding[named[row]]).collect();
        self.seen = order.iter().map(|&row| self.seen[named[row]].clone()).collect();
        self.places = vec![0; order.len()];
        for (place, row) in order.into_iter().enumerate() {
            self.places[row] = place;
        }
    }

    /// Forgets all but the first `length` positions. Returns whether it could.
    pub(crate) fn truncate(&mut self, length: usize) -> bool {
        let outgrew = |at: usize| length <= at && self.length() > at;
        let can = self.cache.can_truncate(length) && !self.model.restarts_at().is_some_and(outgrew);
        if can {
            self.cache.truncate(length);
            self.seen.iter_mut().for_each(|seen| seen.truncate(length));
        }
        can
    }

    /// The scores of what follows each of the last `keep` tokens: `[rows, keep, vocab]`, row-major.
    ///
    /// `ids` are the next tokens, `[rows, seq]`, row-major.
    ///
    /// # Errors
    /// [`Error::Device`] if the device fails.
    pub(crate) fn forward(&mut self, ids: &[u32], keep: usize) -> Result<Vec<f32>> {
        let (lines, least) = self.lines(ids);
        let seq = lines.first().map_or(0, Vec::len);
        let chunk = self.chunk.unwrap_or(seq).max(1);
        let columns = |range: std::ops::Range<usize>| -> Vec<i64> {
            lines.iter().flat_map(|line| &line[range.clone()]).map(|&id| i64::from(id)).collect()
        };
        let mut start = 0;
        loop {
            let chunk = if start == 0 && least > 0 { chunk.max(least + keep) } else { chunk };
            if seq - start <= chunk.max(keep) {
                break;
            }
            // As many as `keep` stay for the last pass, whose scores are looked at.
            let end = start + chunk.min(seq - start - keep);
            drop(self.decode(columns(start..end), end - start));
            start = end;
        }
        let seq = seq - start;
        let x = self.decode(columns(start..start + seq), seq).narrow(1, seq - keep, keep);
        let x = if self.places.is_sorted() {
            x
        } else {
            let places: Vec<i64> = self.places.iter().map(|&place| place as i64).collect();
            x.select(0, Tensor::<1, Int>::from_data(places.as_slice(), self.device))
        };
        let logits = self.model.head(x); // [rows, keep, vocab]
        logits.try_into_vec_as::<f32>().map_err(|e| Error::Device {
            device: format!("{:?}", self.device),
            reason: format!("the result cannot be read: {e}"),
            available: device::available().join(", "),
        })
    }

    /// The tokens that are sent through the model at each place, of which `ids` are the last ones of each row, and how many
    /// of them are sent at once at least.
    ///
    /// They are all tokens of sequences that outgrow a length, see [`CausalLm::restarts_at`]. So many go together that no
    /// token takes the sequence for a shorter one.
    fn lines(&mut self, ids: &[u32]) -> (Vec<Vec<u32>>, usize) {
        let new = ids.len() / self.places.len().max(1);
        let mut lines = vec![Vec::new(); self.places.len()];
        for (row, &place) in ids.chunks_exact(new.max(1)).zip(&self.places) {
            lines[place] = row.to_vec();
        }
        let Some(at) = self.model.restarts_at() else { return (lines, 0) };
        self.seen.iter_mut().zip(&lines).for_each(|(seen, line)| seen.extend(line));
        let length = self.length();
        if length > at || length + new <= at {
            return (lines, 0);
        }
        if length > 0 {
            let precision = self.cache.precision();
            self.cache = Cache::with_precision(&self.model.cache_kinds(), self.capacity.max(length + new), precision);
        }
        (self.seen.clone(), at + 1)
    }

    /// The layers alone.
    ///
    /// # Shapes
    /// - ids: `[rows, seq]`
    /// - output: `[rows, seq, hidden]`
    fn decode(&mut self, ids: Vec<i64>, seq: usize) -> Tensor<3> {
        let rows = self.padding.len();
        let (seen, device) = (self.cache.length(), self.device);
        let tensor = |values: Vec<i64>, columns: usize| {
            Tensor::<2, Int>::from_data(TensorData::new(values, [rows, columns]), device)
        };
        // Without padding a model's own rules say the same, and cost less.
        let padded = self.padding.iter().any(|&padding| padding > 0);
        let attention_mask = padded.then(|| {
            let mask = self.padding.iter().flat_map(|&padding| (0..seen + seq).map(move |i| i64::from(i >= padding)));
            tensor(mask.collect(), seen + seq)
        });
        let position_ids = padded.then(|| {
            let position = |padding: usize| (seen..seen + seq).map(move |i| i.saturating_sub(padding) as i64);
            tensor(self.padding.iter().flat_map(|&padding| position(padding)).collect(), seq)
        });
        let input_ids = tensor(ids, seq);
        let ids = input_ids.clone();
        let inputs = TextInputs { input_ids: ids, attention_mask, token_type_ids: None, position_ids, past: 0 };
        self.model.decode(self.model.embed(input_ids), &inputs, &mut self.cache, &mut Record::none())
    }
}

/// Whether a model keeps only as much of the past as it needs, so that its cache cannot always go back.
pub(crate) fn forgets(model: &dyn CausalLm) -> bool {
    model.cache_kinds().iter().any(|kind| *kind != CacheKind::Full)
}

/// Whether a cache of the model can go back anywhere from `length` positions, because it has kept all of them.
fn keeps_all(model: &dyn CausalLm, length: usize) -> bool {
    model.cache_kinds().iter().all(|kind| match *kind {
        CacheKind::Full => true,
        CacheKind::Sliding(window) => length <= window,
        CacheKind::State => false,
    })
}

/// Whether a cache of the model can go back by tokens of the last pass.
pub(crate) fn drops_last(model: &dyn CausalLm) -> bool {
    model.cache_kinds().iter().all(|kind| *kind != CacheKind::State)
}

/// Rows of different length as one array with padding on the left, row-major, and how much padding each has.
pub(crate) fn pad_left(rows: &[&[u32]], pad: u32) -> (Vec<u32>, Vec<usize>) {
    let width = rows.iter().map(|row| row.len()).max().unwrap_or(0);
    let padding: Vec<usize> = rows.iter().map(|row| width - row.len()).collect();
    let ids = rows.iter().zip(&padding).flat_map(|(row, &n)| std::iter::repeat_n(pad, n).chain(row.iter().copied()));
    (ids.collect(), padding)
}

/// Rows `rows` of a row-major array with `of` rows.
pub(crate) fn take_rows(array: &[f32], of: usize, rows: &[usize]) -> Vec<f32> {
    let width = array.len() / of.max(1);
    rows.iter().flat_map(|&row| &array[row * width..(row + 1) * width]).copied().collect()
}

/// A sequence of which the model has seen some tokens: what a session keeps.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) cache: Cache,
    /// The tokens that the cache stands for.
    pub(crate) ids: Vec<u32>,
}

impl Kept {
    /// A row for a prompt, which has seen what the prompt shares with this sequence, all but its last token at most.
    pub(crate) fn resume<'m>(self, call: &Call<'m>, prompt: &[u32]) -> Option<Batch<'m>> {
        let common = self.ids.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let common = common.min(prompt.len().saturating_sub(1));
        let outgrown = call.model.restarts_at().is_some_and(|at| common <= at && prompt.len() > at);
        if common == 0 || outgrown || self.cache.precision() != call.precision {
            return None;
        }
        let length = self.cache.length();
        let mut batch = Batch::resume(call, self.cache, &self.ids);
        let goes_back = common == length || keeps_all(call.model, length) && batch.truncate(common);
        goes_back.then_some(batch)
    }
}

/// The scores of next tokens; those of other prompts take part in them where the call is guided away from these.
#[derive(Debug)]
pub(crate) struct Scorer<'m> {
    batch: Batch<'m>,
    /// The scale, and the same continuations of the negative prompts.
    negative: Option<(f32, Batch<'m>)>,
}

impl<'m> Scorer<'m> {
    /// Sends the prompts through the model, one row each. Returns also the scores of what follows, `[rows, vocab]`, and
    /// how many tokens of the prompt were kept from another call.
    ///
    /// # Errors
    /// [`Error::Input`] for negative prompts that do not fit, [`Error::Device`].
    pub(crate) fn start(call: &Call<'m>, hooks: &Hooks<'_>, kept: Option<Kept>) -> Result<(Self, Vec<f32>, usize)> {
        let prompts: Vec<&[u32]> = call.prompts.iter().map(Vec::as_slice).collect();
        let resumed = match (kept, prompts.as_slice()) {
            (Some(kept), [prompt]) => kept.resume(call, prompt),
            _ => None,
        };
        let (mut batch, ids) = match resumed {
            Some(batch) => {
                let rest = prompts[0][batch.length()..].to_vec();
                (batch, rest)
            }
            None => {
                let (ids, padding) = pad_left(&prompts, call.pad);
                (Batch::new(call, call.model, padding), ids)
            }
        };
        let reused = batch.length();
        let mut scores = batch.forward(&ids, 1)?;
        let negative = match call.config.guidance_scale.filter(|&scale| scale != 1.0) {
            None => None,
            Some(scale) => {
                let negatives = call.negative_prompts(hooks)?;
                let (ids, padding) = pad_left(&negatives, call.pad);
                let mut negative = Batch::new(call, call.model, padding);
                let away = negative.forward(&ids, 1)?;
                guide(&mut scores, away, prompts.len(), scale as f32);
                Some((scale as f32, negative))
            }
        };
        Ok((Self { batch, negative }, scores, reused))
    }

    /// Whether the scores are logarithms of probabilities already.
    pub(crate) fn guided(&self) -> bool {
        self.negative.is_some()
    }

    /// The scores of what follows one more token of each row, `[rows, vocab]`.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub(crate) fn next(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let mut scores = self.batch.forward(tokens, 1)?;
        if let Some((scale, negative)) = &mut self.negative {
            let away = negative.forward(tokens, 1)?;
            guide(&mut scores, away, tokens.len(), *scale);
        }
        Ok(scores)
    }

    /// Puts row `rows[i]` at place `i`; a row may have several places, or none.
    pub(crate) fn take(&mut self, rows: &[usize]) {
        self.batch.take(rows);
        if let Some((_, negative)) = &mut self.negative {
            negative.take(rows);
        }
    }

    /// What was kept of the only row, whose tokens are `ids`.
    pub(crate) fn into_kept(self, ids: &[u32]) -> Kept {
        let cache = self.batch.into_cache();
        Kept { ids: ids[..cache.length().min(ids.len())].to_vec(), cache }
    }
}

/// Classifier-free guidance: `away + scale · (scores − away)` of logarithms of probabilities. Sanchez et al., 2023
/// (arXiv:2306.17806), equation 7.
fn guide(scores: &mut [f32], mut away: Vec<f32>, rows: usize, scale: f32) {
    let vocab = (scores.len() / rows.max(1)).max(1);
    for (scores, away) in scores.chunks_exact_mut(vocab).zip(away.chunks_exact_mut(vocab)) {
        log_softmax(scores);
        log_softmax(away);
        for (score, &mut away) in scores.iter_mut().zip(away) {
            *score = scale * (*score - away) + away;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_padded_on_the_left() {
        let (ids, padding) = pad_left(&[&[1, 2, 3], &[4]], 9);
        assert_eq!((ids, padding), (vec![1, 2, 3, 9, 9, 4], vec![0, 2]));
        assert_eq!(take_rows(&[1.0, 2.0, 3.0, 4.0], 2, &[1, 1, 0]), [3.0, 4.0, 3.0, 4.0, 1.0, 2.0]);
    }

    #[test]
    fn guidance_moves_away_from_the_negative_prompt() {
        let mut scores = vec![0.25f32.ln(), 0.75f32.ln()];
        guide(&mut scores, vec![0.5f32.ln(), 0.5f32.ln()], 1, 2.0);
        // ln 0.5 + 2 (ln p - ln 0.5)
        assert!((scores[0] - 0.125f32.ln()).abs() < 1e-6 && (scores[1] - 1.125f32.ln()).abs() < 1e-6, "{scores:?}");
    }
}
