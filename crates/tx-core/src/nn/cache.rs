//! What a decoder keeps of the tokens it has seen, so that the next one costs one token.

use burn::tensor::{Int, Tensor};

/// What a layer keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheKind {
    /// Keys and values of every token.
    Full,
    /// Keys and values of as many tokens as a window has, the query itself counted.
    Sliding(usize),
    /// States of a fixed size, whatever was seen.
    State,
}

/// What all layers keep of one batch of sequences.
#[derive(Debug, Clone, Default)]
pub struct Cache {
    layers: Vec<LayerCache>,
    length: usize,
}

/// What one layer keeps.
#[derive(Debug, Clone)]
pub enum LayerCache {
    /// Nothing: for a single pass.
    Off,
    /// Keys and values.
    Attention(KeyValues),
    /// States.
    State(States),
}

/// Keys and values of the tokens seen so far, in buffers that are longer than that.
#[derive(Debug, Clone)]
pub struct KeyValues {
    /// As many of the last tokens are seen; all if `None`.
    window: Option<usize>,
    /// Tokens that the first buffers have room for.
    capacity: usize,
    /// `[batch, capacity, groups, head_dim]`, keys and values.
    buffers: Option<[Tensor<4>; 2]>,
    /// Where in the buffers the tokens begin and end.
    start: usize,
    end: usize,
    /// Whether tokens that left the window are no longer in the buffers.
    lost: bool,
}

/// The states of a layer that sees the past through them alone.
#[derive(Debug, Clone, Default)]
pub struct States {
    /// The last inputs of a causal convolution, `[batch, channels, kernel - 1]`.
    pub conv: Option<Tensor<3>>,
    /// The state of a recurrence, `[batch, heads or 1, state, head_dim or channels]`.
    pub recurrent: Option<Tensor<4>>,
}

impl Cache {
    /// An empty cache. `capacity` tokens fit before anything is copied.
    pub fn new(kinds: &[CacheKind], capacity: usize) -> Self {
        let layer = |kind: &CacheKind| match *kind {
            CacheKind::Full => LayerCache::Attention(KeyValues::new(None, capacity)),
            CacheKind::Sliding(window) => LayerCache::Attention(KeyValues::new(Some(window), capacity)),
            CacheKind::State => LayerCache::State(States::default()),
        };
        Self { layers: kinds.iter().map(layer).collect(), length: 0 }
    }

    /// A cache that keeps nothing, for a single pass through this many layers.
    pub fn off(layers: usize) -> Self {
        Self { layers: vec![LayerCache::Off; layers], length: 0 }
    }

    /// Tokens seen so far, padding included.
    pub fn length(&self) -> usize {
        self.length
    }

    /// One for each layer, in order.
    pub fn layers(&mut self) -> impl Iterator<Item = &mut LayerCache> {
        self.layers.iter_mut()
    }

    /// Counts the tokens of a pass that has gone through all layers.
    pub fn advance(&mut self, tokens: usize) {
        self.length += tokens;
    }

    /// Puts row `rows[i]` of the batch at place `i`: what a beam search does with its beams.
    pub fn reorder(&mut self, rows: &[usize]) {
        for layer in &mut self.layers {
            layer.reorder(rows);
        }
    }

    /// Whether [`Cache::truncate`] can go back to this length: states and tokens that left a window are gone.
    pub fn can_truncate(&self, length: usize) -> bool {
        self.layers.iter().all(|layer| match layer {
            LayerCache::Off => true,
            LayerCache::Attention(kept) => kept.can_drop(self.length.saturating_sub(length)),
            LayerCache::State(_) => length == self.length,
        })
    }

    /// Forgets all but the first `length` tokens, for which [`Cache::can_truncate`] holds.
    pub fn truncate(&mut self, length: usize) {
        let dropped = self.length.saturating_sub(length);
        for layer in &mut self.layers {
            if let LayerCache::Attention(kept) = layer {
                kept.end -= dropped.min(kept.end - kept.start);
            }
        }
        self.length -= dropped;
    }
}

impl LayerCache {
    /// Keeps the keys and values of new tokens; gives those of all tokens that a query may see.
    ///
    /// # Shapes
    /// - k: `[batch, seq, groups, head_dim]`, v: `[batch, seq, groups, value_dim]`
    /// - output: `[batch, keys, groups, head_dim]`, `[batch, keys, groups, value_dim]`, the new tokens last
    pub fn append(&mut self, k: Tensor<4>, v: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        match self {
            Self::Attention(kept) => kept.append(k, v),
            Self::Off | Self::State(_) => (k, v),
        }
    }

    /// The states, if this layer keeps any.
    pub fn states(&mut self) -> Option<&mut States> {
        match self {
            Self::State(states) => Some(states),
            Self::Off | Self::Attention(_) => None,
        }
    }

    fn reorder(&mut self, rows: &[usize]) {
        fn select<const D: usize>(x: &mut Tensor<D>, rows: &[usize]) {
            let unchanged = rows.len() == x.dims()[0] && rows.iter().enumerate().all(|(i, &row)| i == row);
            if !unchanged {
                let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
                let rows = Tensor::<1, Int>::from_data(rows.as_slice(), &x.device());
                *x = x.clone().select(0, rows);
            }
        }
        match self {
            Self::Off => {}
            Self::Attention(kept) => kept.buffers.iter_mut().flatten().for_each(|buffer| select(buffer, rows)),
            Self::State(states) => {
                states.conv.iter_mut().for_each(|state| select(state, rows));
                states.recurrent.iter_mut().for_each(|state| select(state, rows));
            }
        }
    }
}

impl KeyValues {
    fn new(window: Option<usize>, capacity: usize) -> Self {
        // Tokens that left the window make room once for as many new ones.
        let capacity = window.map_or(capacity, |window| capacity.min(2 * window));
        Self { window, capacity, buffers: None, start: 0, end: 0, lost: false }
    }

    fn append(&mut self, k: Tensor<4>, v: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let new = k.dims()[1];
        // What the first of the new tokens still sees.
        if let Some(window) = self.window {
            self.start = self.start.max(self.end.saturating_sub(window.saturating_sub(1)));
        }
        let mut buffers = self.buffers_with_room([&k, &v], new);
        for (buffer, x) in buffers.iter_mut().zip([k, v]) {
            // Nothing else holds the buffer, so that it is written in place.
            let whole = std::mem::replace(buffer, Tensor::empty([0; 4], &x.device()));
            *buffer = tx_kernels::write_rows(whole, self.end, x);
        }
        self.end += new;
        let [k, v] = buffers.clone().map(|buffer| buffer.narrow(1, self.start, self.end - self.start));
        self.buffers = Some(buffers);
        (k, v)
    }

    /// The buffers, with room for `new` tokens after the end; larger ones for tensors like these where they are full.
    fn buffers_with_room(&mut self, like: [&Tensor<4>; 2], new: usize) -> [Tensor<4>; 2] {
        let room = self.buffers.as_ref().map_or(0, |[k, _]| k.dims()[1]);
        match self.buffers.take() {
            Some(buffers) if self.end + new <= room => buffers,
            full => {
                let kept = self.end - self.start;
                // Twice of what is needed, or as much as before where most of it left the window.
                let room = if full.is_some() { room.max(2 * (kept + new)) } else { self.capacity.max(new) };
                let buffer = |i: usize| {
                    let [batch, _, groups, dim] = like[i].dims();
                    let empty = Tensor::zeros([batch, room, groups, dim], (&like[i].device(), like[i].dtype()));
                    match &full {
                        Some(full) => tx_kernels::write_rows(empty, 0, full[i].clone().narrow(1, self.start, kept)),
                        None => empty,
                    }
                };
                let buffers = [buffer(0), buffer(1)];
                self.lost |= self.start > 0;
                (self.start, self.end) = (0, kept);
                buffers
            }
        }
    }

    fn can_drop(&self, tokens: usize) -> bool {
        // Within a window, the tokens before those that are dropped have to be there still.
        let held = self.end - self.start;
        let whole = self.start == 0 && !self.lost;
        tokens <= held && self.window.is_none_or(|window| tokens == 0 || whole || held - tokens + 1 >= window)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn tokens(range: std::ops::Range<i64>) -> Tensor<4> {
        let seq = (range.end - range.start) as usize;
        Tensor::<1, Int>::arange(range, &Device::default()).float().reshape([1, seq, 1, 1])
    }

    fn values(x: Tensor<4>) -> Vec<f32> {
        x.into_data().iter::<f32>().collect()
    }

    fn range(range: std::ops::Range<usize>) -> Vec<f32> {
        range.map(|i| i as f32).collect()
    }

    #[test]
    fn tokens_come_back_in_order_however_they_came() {
        for capacity in [1, 4, 64] {
            let mut cache = Cache::new(&[CacheKind::Full], capacity);
            let mut seen = 0;
            for new in [5, 1, 1, 3, 1, 20, 1] {
                for layer in cache.layers() {
                    let (k, v) = layer.append(tokens(seen..seen + new), tokens(seen..seen + new).neg());
                    assert_eq!(values(k), range(0..(seen + new) as usize));
                    assert_eq!(values(v.neg()), range(0..(seen + new) as usize));
                }
                cache.advance(new as usize);
                seen += new;
            }
            cache.truncate(7);
            for layer in cache.layers() {
                assert_eq!(values(layer.append(tokens(7..9), tokens(7..9)).0), range(0..9));
            }
        }
    }

    #[test]
    fn a_window_keeps_what_its_queries_see() {
        let mut cache = Cache::new(&[CacheKind::Sliding(4)], 64);
        let mut seen = 0;
        for new in [1, 6, 1, 1, 1, 1, 1, 1, 9, 1] {
            for layer in cache.layers() {
                let (k, _) = layer.append(tokens(seen..seen + new), tokens(seen..seen + new));
                let first = seen.saturating_sub(3).max(0) as usize;
                assert_eq!(values(k), range(first..(seen + new) as usize));
            }
            cache.advance(new as usize);
            seen += new;
        }
        assert!(cache.can_truncate(seen as usize) && !cache.can_truncate(seen as usize - 5));
        // Whatever is in the buffers: what left the window before they were made anew is gone.
        let mut cache = Cache::new(&[CacheKind::Sliding(4)], 64);
        for token in 0..40 {
            cache.layers().for_each(|layer| drop(layer.append(tokens(token..token + 1), tokens(token..token + 1))));
            cache.advance(1);
            assert!(cache.can_truncate(token as usize));
            assert_eq!(cache.can_truncate((token as usize).saturating_sub(1)), token < 4, "{token}");
        }
    }

    #[test]
    fn rows_are_reordered() {
        let mut cache = Cache::new(&[CacheKind::Full], 8);
        let rows = |a: f32, b: f32| Tensor::<1>::from_floats([a, b], &Device::default()).reshape([2, 1, 1, 1]);
        cache.layers().for_each(|layer| drop(layer.append(rows(1.0, 2.0), rows(1.0, 2.0))));
        cache.reorder(&[1, 1]);
        for layer in cache.layers() {
            assert_eq!(values(layer.append(rows(3.0, 4.0), rows(3.0, 4.0)).0), [2.0, 3.0, 2.0, 4.0]);
        }
    }
}
