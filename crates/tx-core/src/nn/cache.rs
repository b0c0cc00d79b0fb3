//! What a decoder keeps of the tokens it has seen, so that the next one costs one token.

mod lineage;

use burn::tensor::{DType, Device, Int, Tensor};
use tx_kernels::{KvPrecision, KvTensor, RowCopy};

use self::lineage::{Fork, Lineages};

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
    precision: KvPrecision,
    /// Which rows share their first tokens.
    lineages: Lineages,
    /// Tokens before those of the text, which `length` does not count.
    virtual_tokens: usize,
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
    precision: KvPrecision,
    /// `[batch, capacity, groups, head_dim]`, keys and values.
    buffers: Option<[KvTensor; 2]>,
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
        Self::with_precision(kinds, capacity, KvPrecision::Float)
    }

    /// The same for keys and values that are kept in another way than they come.
    ///
    /// In 8 bits, a key or value of `dim` numbers takes `dim + 4` bytes, and whoever reads it gets what the bytes stand
    /// for, in the pass that brings it too: it makes no difference how tokens are grouped into passes.
    pub fn with_precision(kinds: &[CacheKind], capacity: usize, precision: KvPrecision) -> Self {
        let layer = |kind: &CacheKind| match *kind {
            CacheKind::Full => LayerCache::Attention(KeyValues::new(None, capacity, precision)),
            CacheKind::Sliding(window) => LayerCache::Attention(KeyValues::new(Some(window), capacity, precision)),
            CacheKind::State => LayerCache::State(States::default()),
        };
        Self { layers: kinds.iter().map(layer).collect(), precision, ..Self::default() }
    }

    /// A cache that keeps nothing, for a single pass through this many layers.
    pub fn off(layers: usize) -> Self {
        Self { layers: vec![LayerCache::Off; layers], ..Self::default() }
    }

    /// How keys and values are kept.
    pub fn precision(&self) -> KvPrecision {
        self.precision
    }

    /// Tokens seen so far, padding included; in a pass, virtual ones before them too.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Whether it keeps nothing.
    pub(crate) fn is_off(&self) -> bool {
        self.layers.iter().all(|layer| matches!(layer, LayerCache::Off))
    }

    /// Tokens before those of the text, which are there from the first pass on.
    pub(crate) fn virtual_tokens(&self) -> usize {
        self.virtual_tokens
    }

    /// Keeps keys and values of tokens before those of the text, alike in all rows. Returns how many layers keep theirs.
    ///
    /// # Shapes
    /// - layers: `[tokens, groups, head_dim]` each
    pub(crate) fn begin_with(&mut self, layers: &[[Tensor<3>; 2]], batch: usize) -> usize {
        let mut filled = 0;
        for (layer, values) in self.layers.iter_mut().zip(layers) {
            if let LayerCache::Attention(kept) = layer {
                let [k, v] = values.each_ref().map(|x| {
                    let [tokens, groups, dim] = x.dims();
                    let dtype: DType = x.clone().without_autodiff().device().settings().float_dtype.into();
                    x.clone().cast(dtype).unsqueeze::<4>().expand([batch, tokens, groups, dim])
                });
                self.virtual_tokens = k.dims()[1];
                kept.append(k, v);
                filled += 1;
            }
        }
        filled
    }

    /// A pass whose tokens follow the virtual ones too.
    pub(crate) fn behind_virtual<T>(&mut self, pass: impl FnOnce(&mut Self) -> T) -> T {
        self.length += self.virtual_tokens;
        let result = pass(self);
        self.length -= self.virtual_tokens;
        result
    }

    /// The first pass, whose first `count` tokens are virtual.
    pub(crate) fn with_virtual<T>(&mut self, count: usize, pass: impl FnOnce(&mut Self) -> T) -> T {
        let result = pass(self);
        self.length = self.length.saturating_sub(count);
        self.virtual_tokens = count;
        result
    }

    /// One for each layer, in order.
    pub fn layers(&mut self) -> impl Iterator<Item = &mut LayerCache> {
        self.layers.iter_mut()
    }

    /// Counts the tokens of a pass that has gone through all layers.
    pub fn advance(&mut self, tokens: usize) {
        self.length += tokens;
    }

    /// Keeps rows of the batch, each as often as it is named: what a beam search does with its beams.
    ///
    /// Returns how they lie now: row `i` is what `rows[order[i]]` was. Of as many rows as there were, each stays where it
    /// is if it is named, and one that is not takes over the tokens that it does not share with a row that is named again:
    /// beams of one prompt share the prompt, and what they had in common before they parted, none of which is touched. So a
    /// step costs a copy of the last tokens of some rows instead of all tokens of all rows. Another number of rows costs a
    /// copy of all that remain. States, which have no tokens, are always copied.
    pub fn reorder(&mut self, rows: &[usize]) -> Vec<usize> {
        let as_named = || (0..rows.len()).collect();
        let Some(count) = self.layers.iter().find_map(LayerCache::rows) else { return as_named() };
        self.lineages.set_count(count);
        if rows.len() != count {
            self.lineages.select(rows, self.length);
            self.layers.iter_mut().for_each(|layer| layer.select(rows));
            return as_named();
        }
        let (order, forks) = self.lineages.place(rows, self.length);
        let states: Vec<usize> = order.iter().map(|&i| rows[i]).collect();
        for layer in &mut self.layers {
            match layer {
                LayerCache::Attention(kept) => kept.fork(&forks, self.length),
                LayerCache::State(_) => layer.select(&states),
                LayerCache::Off => {}
            }
        }
        order
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
        if dropped > 0 {
            self.lineages.diverge(self.length);
        }
    }
}

impl LayerCache {
    /// Keeps the keys and values of new tokens; gives those of all tokens that a query may see.
    ///
    /// # Shapes
    /// - k: `[batch, seq, groups, head_dim]`, v: `[batch, seq, groups, value_dim]`
    /// - output: `[batch, keys, groups, head_dim]`, `[batch, keys, groups, value_dim]`, the new tokens last
    pub fn append(&mut self, k: Tensor<4>, v: Tensor<4>) -> (KvTensor, KvTensor) {
        match self {
            Self::Attention(kept) => kept.append(k, v),
            Self::Off | Self::State(_) => (k.into(), v.into()),
        }
    }

    /// The states, if this layer keeps any.
    pub fn states(&mut self) -> Option<&mut States> {
        match self {
            Self::State(states) => Some(states),
            Self::Off | Self::Attention(_) => None,
        }
    }

    /// Rows of the batch, if anything is kept of them.
    fn rows(&self) -> Option<usize> {
        match self {
            Self::Off => None,
            Self::Attention(kept) => kept.buffers.as_ref().map(|[k, _]| k.dims()[0]),
            Self::State(States { conv, recurrent }) => {
                let conv = conv.as_ref().map(|state| state.dims()[0]);
                conv.or_else(|| recurrent.as_ref().map(|state| state.dims()[0]))
            }
        }
    }

    /// Keeps the rows that are named, in their order.
    fn select(&mut self, rows: &[usize]) {
        let unchanged = self.rows() == Some(rows.len()) && rows.iter().enumerate().all(|(i, &row)| i == row);
        if unchanged {
            return;
        }
        let places: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        let places = |device: Device| Tensor::<1, Int>::from_data(places.as_slice(), &device);
        match self {
            Self::Off => {}
            Self::Attention(kept) => {
                let select = |buffer: KvTensor| buffer.clone().select(places(buffer.device()));
                kept.buffers = kept.buffers.take().map(|buffers| buffers.map(select));
            }
            Self::State(States { conv, recurrent }) => {
                *conv = conv.take().map(|state| state.clone().select(0, places(state.device())));
                *recurrent = recurrent.take().map(|state| state.clone().select(0, places(state.device())));
            }
        }
    }
}

impl KeyValues {
    fn new(window: Option<usize>, capacity: usize, precision: KvPrecision) -> Self {
        // Tokens that left the window make room once for as many new ones.
        let capacity = window.map_or(capacity, |window| capacity.min(2 * window));
        Self { window, capacity, precision, buffers: None, start: 0, end: 0, lost: false }
    }

    fn append(&mut self, k: Tensor<4>, v: Tensor<4>) -> (KvTensor, KvTensor) {
        let new = k.dims()[1];
        // What the first of the new tokens still sees.
        if let Some(window) = self.window {
            self.start = self.start.max(self.end.saturating_sub(window.saturating_sub(1)));
        }
        let [keys, values] = self.buffers_with_room([&k, &v], new);
        // Nothing else holds the buffers, so that they are written in place.
        let buffers = [keys.write(self.end, k), values.write(self.end, v)];
        self.end += new;
        let [k, v] = buffers.clone().map(|buffer| buffer.narrow(self.start, self.end - self.start));
        self.buffers = Some(buffers);
        (k, v)
    }

    /// The buffers, with room for `new` tokens after the end; larger ones for tensors like these where they are full.
    fn buffers_with_room(&mut self, like: [&Tensor<4>; 2], new: usize) -> [KvTensor; 2] {
        let room = self.buffers.as_ref().map_or(0, |[k, _]| k.dims()[1]);
        match self.buffers.take() {
            Some(buffers) if self.end + new <= room => buffers,
            Some(full) => {
                let kept = self.end - self.start;
                // Twice of what is needed, or as much as before where most of it left the window.
                let room = room.max(2 * (kept + new));
                let buffers = full.map(|buffer| buffer.moved(self.start, kept, room));
                self.lost |= self.start > 0;
                (self.start, self.end) = (0, kept);
                buffers
            }
            None => like.map(|x| {
                let [batch, _, groups, dim] = x.dims();
                let shape = [batch, self.capacity.max(new), groups, dim];
                KvTensor::zeros(shape, self.precision, &x.device(), x.dtype())
            }),
        }
    }

    /// Lets rows take over what they do not share with others after `length` tokens.
    fn fork(&mut self, forks: &[Fork], length: usize) {
        let copy = |fork: &Fork| {
            let new = (length - fork.common).min(self.end - self.start);
            RowCopy { from: fork.from, to: fork.to, tokens: self.end - new..self.end }
        };
        let copies: Vec<RowCopy> = forks.iter().map(copy).filter(|copy| !copy.tokens.is_empty()).collect();
        if !copies.is_empty() {
            self.buffers = self.buffers.take().map(|buffers| buffers.map(|buffer| buffer.copy_rows(&copies)));
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
    use super::*;

    fn tokens(range: std::ops::Range<i64>) -> Tensor<4> {
        let seq = (range.end - range.start) as usize;
        Tensor::<1, Int>::arange(range, &Device::default()).float().reshape([1, seq, 1, 1])
    }

    fn values(x: KvTensor) -> Vec<f32> {
        x.float().into_data().iter::<f32>().collect()
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
                    assert_eq!(values(v.float().neg().into()), range(0..(seen + new) as usize));
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
    fn virtual_tokens_come_first_and_count_in_passes_alone() {
        let device = Device::default();
        let layer = || [0.0, 1.0].map(|x| Tensor::<1>::from_floats([x - 2.0, x - 1.0], &device).reshape([2, 1, 1]));
        let mut cache = Cache::new(&[CacheKind::Full, CacheKind::State], 8);
        assert_eq!((cache.begin_with(&[layer(), layer()], 1), cache.virtual_tokens()), (1, 2));
        for (new, before) in [(3, 0), (1, 3), (2, 1)] {
            cache.truncate(before);
            cache.behind_virtual(|cache| {
                assert_eq!(cache.length(), before + 2);
                let new = before as i64..(before + new) as i64;
                let Some(layer) = cache.layers().next() else { panic!("two layers") };
                let (k, v) = layer.append(tokens(new.clone()), tokens(new.clone()));
                let numbers = |first: i64| (first..new.end).map(|i| i as f32).collect::<Vec<_>>();
                assert_eq!(values(k), numbers(-2));
                assert_eq!(values(v)[..2], [-1.0, 0.0]);
                cache.advance((new.end - new.start) as usize);
            });
            assert_eq!(cache.length(), before + new);
        }
        let mut prompted = Cache::off(1);
        prompted.with_virtual(2, |cache| cache.advance(5));
        assert_eq!((prompted.length(), prompted.virtual_tokens(), prompted.is_off()), (3, 2, true));
    }

    const PRECISIONS: [KvPrecision; 2] = [KvPrecision::Float, KvPrecision::Int8];

    /// The numbers of `x`, each of which is the only one of its head: bytes lose nothing but the last bits of it.
    fn rounded(x: KvTensor) -> Vec<f32> {
        values(x).into_iter().map(|x| (x * 64.0).round() / 64.0).collect()
    }

    #[test]
    fn rows_are_reordered() {
        for precision in PRECISIONS {
            let mut cache = Cache::with_precision(&[CacheKind::Full], 8, precision);
            let rows = |a: f32, b: f32| Tensor::<1>::from_floats([a, b], &Device::default()).reshape([2, 1, 1, 1]);
            cache.layers().for_each(|layer| drop(layer.append(rows(1.0, 2.0), rows(1.0, 2.0))));
            cache.advance(1);
            assert_eq!(cache.reorder(&[1, 1]), [1, 0]);
            for layer in cache.layers() {
                assert_eq!(rounded(layer.append(rows(3.0, 4.0), rows(3.0, 4.0)).0), [2.0, 3.0, 2.0, 4.0]);
            }
        }
    }

    /// What each row of a cache should hold.
    struct Rows {
        rows: Vec<Vec<f32>>,
        /// The next number, which comes only once.
        next: f32,
    }

    impl Rows {
        /// Appends `new` tokens of numbers that were not there before, and compares what a query sees with what it should.
        fn append(&mut self, cache: &mut Cache, new: usize, window: usize) {
            let mut tokens = Vec::new();
            for row in &mut self.rows {
                for _ in 0..new {
                    row.push(self.next);
                    tokens.push(self.next);
                    self.next += 1.0;
                }
            }
            let tokens = Tensor::<1>::from_floats(tokens.as_slice(), &Device::default());
            let tokens = tokens.reshape([self.rows.len(), new, 1, 1]);
            for layer in cache.layers() {
                let seen = rounded(layer.append(tokens.clone(), tokens.clone().neg()).0);
                let each = seen.len() / self.rows.len();
                for (row, seen) in self.rows.iter().zip(seen.chunks(each)) {
                    assert!(row.ends_with(seen) && each == row.len().min(window - 1 + new), "{row:?} {seen:?}");
                }
            }
            cache.advance(new);
        }

        fn reorder(&mut self, cache: &mut Cache, named: &[usize]) {
            let order = cache.reorder(named);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..named.len()).collect::<Vec<_>>());
            self.rows = order.into_iter().map(|i| self.rows[named[i]].clone()).collect();
        }
    }

    #[test]
    fn rows_have_their_own_past_however_they_were_reordered() {
        for precision in PRECISIONS {
            for (kind, window) in [(CacheKind::Full, 1000), (CacheKind::Sliding(4), 4)] {
                let mut cache = Cache::with_precision(&[kind, kind], 3, precision);
                let mut rows = Rows { rows: vec![Vec::new(); 2], next: 1.0 };
                rows.append(&mut cache, 5, window);
                rows.reorder(&mut cache, &[0, 0, 0, 1, 1, 1]);
                let orders = [
                    [1, 0, 1, 3, 5, 5],
                    [2, 2, 2, 5, 4, 3],
                    [0, 1, 2, 3, 4, 5],
                    [2, 0, 0, 4, 4, 4],
                    [1, 1, 1, 3, 3, 5],
                    [0, 0, 2, 5, 5, 4],
                ];
                for (i, order) in orders.iter().cycle().take(40).enumerate() {
                    rows.append(&mut cache, 1 + usize::from(i % 7 == 3), window);
                    rows.reorder(&mut cache, order);
                }
                rows.append(&mut cache, 1, window);
                // Fewer rows, tokens that are taken back, and rows of which the others are made again.
                rows.reorder(&mut cache, &[4, 1, 0]);
                rows.append(&mut cache, 1, window);
                let length = cache.length() - usize::from(cache.can_truncate(cache.length() - 2)) * 2;
                cache.truncate(length);
                rows.rows.iter_mut().for_each(|row| row.truncate(length));
                rows.append(&mut cache, 2, window);
                rows.reorder(&mut cache, &[1, 1, 1]);
                rows.append(&mut cache, 3, window);
            }
        }
    }

    #[test]
    fn bytes_take_a_quarter_and_windows_and_going_back_work_as_ever() {
        let device = Device::default();
        for kind in [CacheKind::Full, CacheKind::Sliding(6)] {
            let caches = PRECISIONS.map(|precision| Cache::with_precision(&[kind], 4, precision));
            let [mut floats, mut bytes] = caches;
            for step in [3, 1, 1, 9, 1, 1, 1] {
                let k = Tensor::<4>::random([2, step, 3, 32], burn::tensor::Distribution::Default, &device);
                let seen = [&mut floats, &mut bytes].map(|cache| {
                    let kept = cache.layers().map(|layer| layer.append(k.clone(), k.clone() * 2.0)).collect::<Vec<_>>();
                    cache.advance(step);
                    kept
                });
                let [[(k, v)], [(k8, v8)]] = [seen[0].as_slice(), seen[1].as_slice()] else { panic!("one layer") };
                assert!(matches!(k8, KvTensor::Int8(bytes) if bytes.values.dtype() == DType::I8));
                for (exact, close) in [(k, k8), (v, v8)] {
                    assert_eq!(exact.dims(), close.dims());
                    let error = (exact.clone().float() - close.clone().float()).abs().max().into_scalar::<f32>();
                    assert!(error < 2.0 / 254.0 * 1.001, "{error}");
                }
            }
            let back = bytes.length() - 1;
            assert!(bytes.can_truncate(back) == floats.can_truncate(back) && bytes.precision() == KvPrecision::Int8);
        }
    }
}
