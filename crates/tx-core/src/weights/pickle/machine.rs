//! A pickle virtual machine that can describe tensors and nothing else.
//!
//! Python's machine calls whatever the file names. This one knows a dozen names, all of them parts of a state dict
//! ([`GLOBALS`]), and calls nothing: it records which storage, offset, shape and strides a tensor has. Containers lie in
//! arenas and refer to each other by number, so neither deep nesting nor cycles can exhaust the stack.

use std::collections::HashMap;
use std::fmt::Display;
use std::path::Path;

use burn::tensor::DType;

use super::value::{GLOBALS, Global, Storage, Tensor, Value};
use super::{MAX_RANK, MAX_TENSORS};
use crate::error::{Error, Result};

/// A state dict needs about thirty per tensor.
const MAX_OPCODES: usize = 4_000_000;
/// Deeper than any checkpoint nests its containers.
const MAX_DEPTH: usize = 128;
/// The longest name of a module or a class, in bytes.
const MAX_GLOBAL: usize = 256;

/// A list or a dict: what it holds, and how deep that nests.
#[derive(Debug)]
struct Node<T> {
    items: Vec<T>,
    depth: usize,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    path: &'a Path,
    input: &'a [u8],
    at: usize,
    opcodes: usize,
    stack: Vec<Value<'a>>,
    /// Heights of the stack at which a container was opened.
    marks: Vec<usize>,
    memo: HashMap<u64, Value<'a>>,
    tuples: Vec<Node<Value<'a>>>,
    lists: Vec<Node<Value<'a>>>,
    dicts: Vec<Node<(Value<'a>, Value<'a>)>>,
    pub(super) storages: Vec<Storage<'a>>,
    pub(super) tensors: Vec<Tensor>,
}

impl<'a> Machine<'a> {
    /// A machine at the beginning of `input`; `path` stands in its messages.
    pub(super) fn new(path: &'a Path, input: &'a [u8]) -> Self {
        Self {
            path,
            input,
            at: 0,
            opcodes: 0,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            tuples: Vec::new(),
            lists: Vec::new(),
            dicts: Vec::new(),
            storages: Vec::new(),
            tensors: Vec::new(),
        }
    }

    /// The first byte that was not read.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// The items of a tuple or a list.
    pub(super) fn items(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match value {
            Value::Tuple(i) => Some(&self.tuples[i].items),
            Value::List(i) => Some(&self.lists[i].items),
            _ => None,
        }
    }

    /// The pairs of a dict, in order; a key that is there twice counts with its last value.
    pub(super) fn pairs(&self, value: Value<'a>) -> Option<&[(Value<'a>, Value<'a>)]> {
        match value {
            Value::Dict(i) => Some(&self.dicts[i].items),
            _ => None,
        }
    }

    /// An error at this place of the pickle.
    pub(super) fn error(&self, reason: impl Display) -> Error {
        Error::malformed(self.path, format_args!("pickle, byte {}: {reason}", self.at))
    }

    /// Runs one pickle, from its protocol number to its `STOP`, and returns what it describes.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub(super) fn load(&mut self) -> Result<Value<'a>> {
        self.stack.clear();
        self.marks.clear();
        self.memo.clear();
        let [start, protocol] = self.array()?;
        if start != 0x80 || !(2..=5).contains(&protocol) {
            return Err(self.error("expected the mark of pickle protocol 2, 3, 4 or 5"));
        }
        loop {
            self.charge(1)?;
            let [opcode] = self.array()?;
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode)?;
        }
    }

    /// Counts work, so that no file costs more than its size warrants.
    fn charge(&mut self, opcodes: usize) -> Result<()> {
        self.opcodes = self.opcodes.saturating_add(opcodes);
        if self.opcodes > MAX_OPCODES {
            return Err(self.error(format_args!("more than {MAX_OPCODES} opcodes")));
        }
        Ok(())
    }

    #[rustfmt::skip]
    fn step(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            0x80 => { let [_protocol] = self.array()?; }
            // FRAME: a hint for buffered readers.
            0x95 => { self.take(8)?; }
            // Constants.
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'J' => { let n = i32::from_le_bytes(self.array()?); self.push(Value::Int(n.into())); }
            b'K' => { let [n] = self.array()?; self.push(Value::Int(n.into())); }
            b'M' => { let n = u16::from_le_bytes(self.array()?); self.push(Value::Int(n.into())); }
            0x8a => { let [n] = self.array()?; self.long(n.into())?; }
            0x8b => { let n = u32::from_le_bytes(self.array()?); self.long(n.into())?; }
            b'G' => { self.take(8)?; self.push(Value::Float); }
            // Strings: of Python 2, of Python 3, bytes.
            b'U' | 0x8c => { let [n] = self.array()?; self.text(n.into())?; }
            b'T' | b'X' => { let n = u32::from_le_bytes(self.array()?); self.text(n.into())?; }
            0x8d => { let n = u64::from_le_bytes(self.array()?); self.text(n)?; }
            b'C' => { let [n] = self.array()?; self.take(n.into())?; self.push(Value::Bytes); }
            b'B' => { let n = u32::from_le_bytes(self.array()?); self.take(n.into())?; self.push(Value::Bytes); }
            0x8e => { let n = u64::from_le_bytes(self.array()?); self.take(n)?; self.push(Value::Bytes); }
            // Containers.
            b'(' => self.mark()?,
            b')' => self.tuple(self.stack.len())?,
            0x85 => self.tuple(self.below(1)?)?,
            0x86 => self.tuple(self.below(2)?)?,
            0x87 => self.tuple(self.below(3)?)?,
            b't' => { let from = self.pop_mark()?; self.tuple(from)?; }
            b']' => { self.lists.push(Node { items: Vec::new(), depth: 1 }); self.push(Value::List(self.lists.len() - 1)); }
            b'}' => self.dict(),
            b'a' => self.append(self.below(1)?)?,
            b'e' => { let from = self.pop_mark()?; self.append(from)?; }
            b's' => self.set(self.below(2)?)?,
            b'u' => { let from = self.pop_mark()?; self.set(from)?; }
            // The stack and the memo.
            b'0' => { self.pop()?; }
            b'1' => { let from = self.pop_mark()?; self.stack.truncate(from); }
            b'2' => { let top = self.top()?; self.push(top); }
            b'h' => { let [i] = self.array()?; self.get(i.into())?; }
            b'j' => { let i = u32::from_le_bytes(self.array()?); self.get(i.into())?; }
            b'q' => { let [i] = self.array()?; let top = self.top()?; self.memo.insert(i.into(), top); }
            b'r' => { let i = u32::from_le_bytes(self.array()?); let top = self.top()?; self.memo.insert(i.into(), top); }
            0x94 => { let top = self.top()?; self.memo.insert(self.memo.len() as u64, top); }
            // Names and calls.
            b'c' => { let (module, name) = (self.line()?, self.line()?); self.global(module, name)?; }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Text(module), Value::Text(name)) = (module, name) else {
                    return Err(self.error("expected the name of a class as two strings"));
                };
                self.global(module, name)?;
            }
            b'R' | 0x81 => {
                let (args, function) = (self.pop()?, self.pop()?);
                let result = self.call(function, args)?;
                self.push(result);
            }
            b'b' => self.build()?,
            b'Q' => { let id = self.pop()?; self.storage(id)?; }
            // INST names its class itself; tell what it would have called.
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
                return Err(self.error("opcode INST is not allowed"));
            }
            _ => return Err(self.error(format_args!("opcode {opcode:#04x} is not allowed in a checkpoint"))),
        }
        Ok(())
    }

    fn take(&mut self, n: u64) -> Result<&'a [u8]> {
        let left = &self.input[self.at..];
        match usize::try_from(n).ok().and_then(|n| left.get(..n)) {
            Some(bytes) => {
                self.at += bytes.len();
                Ok(bytes)
            }
            None => Err(self.error(format_args!("{n} bytes expected, {} left", left.len()))),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    fn line(&mut self) -> Result<&'a [u8]> {
        let left = &self.input[self.at..];
        let end = left.iter().take(MAX_GLOBAL).position(|&b| b == b'\n');
        let end = end.ok_or_else(|| self.error("expected the name of a class and a line end"))?;
        self.at += end + 1;
        Ok(&left[..end])
    }

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(value);
    }

    fn top(&self) -> Result<Value<'a>> {
        Ok(self.stack[self.below(1)?])
    }

    fn pop(&mut self) -> Result<Value<'a>> {
        self.below(1)?;
        self.stack.pop().ok_or_else(|| self.error("the stack is empty"))
    }

    /// The height of the stack below its `n` topmost values, which must lie above the last mark.
    fn below(&self, n: usize) -> Result<usize> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let from = self.stack.len().checked_sub(n).filter(|&from| from >= floor);
        from.ok_or_else(|| self.error("the stack is empty"))
    }

    fn mark(&mut self) -> Result<()> {
        self.deeper(self.marks.len())?;
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn pop_mark(&mut self) -> Result<usize> {
        self.marks.pop().ok_or_else(|| self.error("the end of a container that was not begun"))
    }

    fn get(&mut self, index: u64) -> Result<()> {
        let value = self.memo.get(&index).copied();
        self.push(value.ok_or_else(|| self.error(format_args!("memo {index} was never set")))?);
        Ok(())
    }

    fn long(&mut self, n: u64) -> Result<()> {
        let bytes = self.take(n)?;
        self.push(if bytes.len() > 8 {
            Value::Long(bytes)
        } else {
            let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
            let mut wide = [if negative { 0xff } else { 0 }; 8];
            wide[..bytes.len()].copy_from_slice(bytes);
            Value::Int(i64::from_le_bytes(wide))
        });
        Ok(())
    }

    fn text(&mut self, n: u64) -> Result<()> {
        let text = self.take(n)?;
        self.push(Value::Text(text));
        Ok(())
    }

    /// The depth of a container around one of depth `depth`.
    fn deeper(&self, depth: usize) -> Result<usize> {
        if depth >= MAX_DEPTH {
            return Err(self.error(format_args!("containers nest deeper than {MAX_DEPTH}")));
        }
        Ok(depth + 1)
    }

    fn depth(&self, value: Value<'a>) -> usize {
        match value {
            Value::Tuple(i) => self.tuples[i].depth,
            Value::List(i) => self.lists[i].depth,
            Value::Dict(i) => self.dicts[i].depth,
            _ => 0,
        }
    }

    fn depth_of(&self, values: &[Value<'a>]) -> Result<usize> {
        self.deeper(values.iter().map(|&v| self.depth(v)).max().unwrap_or(0))
    }

    fn tuple(&mut self, from: usize) -> Result<()> {
        let depth = self.depth_of(&self.stack[from..])?;
        let items = self.stack.split_off(from);
        self.tuples.push(Node { items, depth });
        self.push(Value::Tuple(self.tuples.len() - 1));
        Ok(())
    }

    fn dict(&mut self) {
        self.dicts.push(Node { items: Vec::new(), depth: 1 });
        self.push(Value::Dict(self.dicts.len() - 1));
    }

    /// Moves the values from `from` on into the list below them.
    fn append(&mut self, from: usize) -> Result<()> {
        let depth = self.depth_of(&self.stack[from..])?;
        let items = self.stack.split_off(from);
        match self.top()? {
            Value::List(i) => {
                self.lists[i].items.extend(items);
                self.lists[i].depth = self.lists[i].depth.max(depth);
                Ok(())
            }
            other => Err(self.error(format_args!("an item for a list is given to {}", other.kind()))),
        }
    }

    /// Moves the keys and values from `from` on into the dict below them.
    fn set(&mut self, from: usize) -> Result<()> {
        let depth = self.depth_of(&self.stack[from..])?;
        let items = self.stack.split_off(from);
        match self.top()? {
            Value::Dict(_) if !items.len().is_multiple_of(2) => Err(self.error("a dict has a key without a value")),
            Value::Dict(i) => {
                self.dicts[i].items.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
                self.dicts[i].depth = self.dicts[i].depth.max(depth);
                Ok(())
            }
            other => Err(self.error(format_args!("a key is set in {}", other.kind()))),
        }
    }

    /// Pushes a class or function if it is allowed; this line is why loading a checkpoint executes nothing.
    fn global(&mut self, module: &[u8], name: &[u8]) -> Result<()> {
        // Checkpoints saved from a GPU by old versions name its storage classes.
        let alias = if module == b"torch.cuda" && name.ends_with(b"Storage") { b"torch" } else { module };
        let found = GLOBALS.iter().find(|(m, n, _)| m.as_bytes() == alias && n.as_bytes() == name);
        let &(_, _, global) = found.ok_or_else(|| {
            self.error(format_args!(
                "`{}.{}` is not allowed: a checkpoint may hold tensors only, and nothing in it is executed; if you trust it, \
                 save it as safetensors in Python",
                shown(module),
                shown(name)
            ))
        })?;
        self.push(Value::Global(global));
        Ok(())
    }

    /// What a call of an allowed function describes.
    fn call(&mut self, function: Value<'a>, args: Value<'a>) -> Result<Value<'a>> {
        let Value::Global(function) = function else {
            return Err(self.error(format_args!("{} is called", function.kind())));
        };
        let args = match args {
            // No allowed function takes more; and copying what the memo can repeat must be cheap.
            Value::Tuple(i) if self.tuples[i].items.len() <= 10 => self.tuples[i].items.clone(),
            other => return Err(self.error(format_args!("expected at most ten arguments, found {}", other.kind()))),
        };
        match (function, args.as_slice()) {
            (Global::OrderedDict, []) => {
                self.dicts.push(Node { items: Vec::new(), depth: 1 });
                Ok(Value::Dict(self.dicts.len() - 1))
            }
            (Global::OrderedDict, &[pairs]) => self.ordered_dict(pairs),
            (Global::Size, &[sizes @ (Value::Tuple(_) | Value::List(_))]) => Ok(sizes),
            (Global::Device, _) => Ok(Value::Device),
            (Global::RebuildTensor, &[storage, offset, sizes, strides, ..]) => {
                self.rebuild(storage, offset, sizes, strides, None)
            }
            (
                Global::RebuildTensorV3,
                &[storage, offset, sizes, strides, _, _, Value::Global(Global::Dtype(dtype)), ..],
            ) => self.rebuild(storage, offset, sizes, strides, Some(dtype)),
            (Global::RebuildParameter | Global::Parameter, &[tensor @ Value::Tensor(_), ..]) => Ok(tensor),
            (Global::RebuildFromType, &[function, Value::Global(Global::TensorType | Global::Parameter), args, ..])
                if !matches!(function, Value::Global(Global::RebuildFromType)) =>
            {
                self.call(function, args)
            }
            _ => Err(self.error(format_args!("{function:?} is called with {} arguments that do not fit", args.len()))),
        }
    }

    /// `OrderedDict([(key, value), …])`, as Python 2 writes it.
    fn ordered_dict(&mut self, pairs: Value<'a>) -> Result<Value<'a>> {
        let wrong = |machine: &Self| machine.error("an OrderedDict is made of something else than pairs");
        let len = self.items(pairs).ok_or_else(|| wrong(self))?.len();
        self.charge(len)?;
        let depth = self.depth(pairs);
        let mut items = Vec::with_capacity(len);
        for &pair in self.items(pairs).unwrap_or_default() {
            let Some(&[key, value]) = self.items(pair) else { return Err(wrong(self)) };
            items.push((key, value));
        }
        self.dicts.push(Node { items, depth });
        Ok(Value::Dict(self.dicts.len() - 1))
    }

    /// A tensor, its numbers in range but not yet compared with the storage.
    fn rebuild(
        &mut self,
        storage: Value<'a>,
        offset: Value<'a>,
        sizes: Value<'a>,
        strides: Value<'a>,
        dtype: Option<DType>,
    ) -> Result<Value<'a>> {
        let Value::Storage(storage) = storage else {
            return Err(self.error(format_args!("a tensor is a view of {}, expected a storage", storage.kind())));
        };
        let dtype = dtype.or(self.storages[storage].dtype);
        let dtype = dtype.ok_or_else(|| self.error("a tensor on an untyped storage has no dtype"))?;
        let offset = self.number(offset, "offset")?;
        let (rank, sizes) = self.numbers(sizes, "shape")?;
        let (axes, strides) = self.numbers(strides, "strides")?;
        if axes != rank {
            return Err(self.error(format_args!("a tensor has {rank} sizes and {axes} strides")));
        }
        if self.tensors.len() >= MAX_TENSORS {
            return Err(self.error(format_args!("more than {MAX_TENSORS} tensors")));
        }
        self.tensors.push(Tensor { storage, dtype, offset, rank, sizes, strides });
        Ok(Value::Tensor(self.tensors.len() - 1))
    }

    fn number(&self, value: Value<'a>, what: &str) -> Result<u64> {
        match value {
            Value::Int(n) => {
                u64::try_from(n).map_err(|_| self.error(format_args!("a tensor's {what} has a negative number: {n}")))
            }
            Value::Long(_) => Err(self.error(format_args!("a tensor's {what} has a number of more than 64 bits"))),
            other => Err(self.error(format_args!("a tensor's {what} is {}, expected integers", other.kind()))),
        }
    }

    fn numbers(&self, value: Value<'a>, what: &str) -> Result<(usize, [u64; MAX_RANK])> {
        let items = self.items(value);
        let items =
            items.ok_or_else(|| self.error(format_args!("a tensor's {what} is {}, expected a tuple", value.kind())))?;
        if items.len() > MAX_RANK {
            return Err(self.error(format_args!("a tensor has {} axes, expected at most {MAX_RANK}", items.len())));
        }
        let mut numbers = [0; MAX_RANK];
        for (number, &item) in numbers.iter_mut().zip(items) {
            *number = self.number(item, what)?;
        }
        Ok((items.len(), numbers))
    }

    /// Python sets attributes here; a state dict has one, `_metadata`, with the versions of the modules.
    fn build(&mut self) -> Result<()> {
        let (state, object) = (self.pop()?, self.top()?);
        match (object, state) {
            (Value::Dict(_), Value::Dict(_) | Value::None) => Ok(()),
            _ => Err(self.error(format_args!("the state of {} is set to {}", object.kind(), state.kind()))),
        }
    }

    /// Pushes the storage that a persistent id means: `("storage", class, key, device, length[, view])`.
    fn storage(&mut self, id: Value<'a>) -> Result<()> {
        let (class, key, len, view) = match self.items(id) {
            Some(&[Value::Text(b"storage"), Value::Global(class), Value::Text(key), _, len]) => {
                (class, key, len, Value::None)
            }
            Some(&[Value::Text(b"storage"), Value::Global(class), Value::Text(key), _, len, view]) => {
                (class, key, len, view)
            }
            _ => return Err(self.error("a persistent id that does not mean a storage")),
        };
        let dtype = match class {
            Global::Storage(dtype) => Some(dtype),
            Global::UntypedStorage => None,
            other => return Err(self.error(format_args!("a storage of class {other:?}"))),
        };
        let len = self.number(len, "storage")?;
        let (offset, len) = match (view, self.items(view)) {
            (Value::None, _) => (0, len),
            (_, Some(&[_, offset, len])) => (self.number(offset, "storage")?, self.number(len, "storage")?),
            _ => return Err(self.error("a view of a storage that is not (key, offset, length)")),
        };
        self.storages.push(Storage { key, dtype, offset, len });
        self.push(Value::Storage(self.storages.len() - 1));
        Ok(())
    }
}

/// Bytes of a file as they may stand in a message.
pub(super) fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(100)]).escape_debug().to_string()
}
