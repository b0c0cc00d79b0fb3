//! What a checkpoint's pickle may be made of.

use burn::tensor::{BoolStore, DType};

use super::MAX_RANK;

/// What lies on the machine's stack; strings are views of the file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than eight bytes, little-endian.
    Long(&'a [u8]),
    /// The value is never needed.
    Float,
    Text(&'a [u8]),
    Bytes,
    Tuple(usize),
    List(usize),
    Dict(usize),
    Global(Global),
    Storage(usize),
    Tensor(usize),
    /// `torch.device(…)`: allowed, and of no use.
    Device,
}

impl Value<'_> {
    /// What it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool(_) => "a boolean",
            Self::Int(_) | Self::Long(_) => "an integer",
            Self::Float => "a float",
            Self::Text(_) => "a string",
            Self::Bytes => "bytes",
            Self::Tuple(_) => "a tuple",
            Self::List(_) => "a list",
            Self::Dict(_) => "a dict",
            Self::Global(_) => "a class or function",
            Self::Storage(_) => "a storage",
            Self::Tensor(_) => "a tensor",
            Self::Device => "a device",
        }
    }
}

/// The classes and functions that a checkpoint may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    Size,
    Device,
    TensorType,
    Parameter,
    /// `_rebuild_tensor` and `_rebuild_tensor_v2`: the dtype is the storage's.
    RebuildTensor,
    /// `_rebuild_tensor_v3`: the dtype is an argument.
    RebuildTensorV3,
    RebuildParameter,
    /// A tensor with Python attributes: the function that rebuilds it is an argument.
    RebuildFromType,
    Storage(DType),
    UntypedStorage,
    Dtype(DType),
}

const BOOL: DType = DType::Bool(BoolStore::Native);

/// Module, name, meaning. What is not here is refused.
#[rustfmt::skip]
pub(super) const GLOBALS: &[(&str, &str, Global)] = &[
    ("collections", "OrderedDict", Global::OrderedDict),
    ("torch", "Size", Global::Size),
    ("torch", "device", Global::Device),
    ("torch", "Tensor", Global::TensorType),
    ("torch.nn.parameter", "Parameter", Global::Parameter),
    ("torch._utils", "_rebuild_tensor", Global::RebuildTensor),
    ("torch._utils", "_rebuild_tensor_v2", Global::RebuildTensor),
    ("torch._utils", "_rebuild_tensor_v3", Global::RebuildTensorV3),
    ("torch._utils", "_rebuild_parameter", Global::RebuildParameter),
    ("torch._utils", "_rebuild_parameter_with_state", Global::RebuildParameter),
    ("torch._tensor", "_rebuild_from_type_v2", Global::RebuildFromType),
    ("torch", "DoubleStorage", Global::Storage(DType::F64)),
    ("torch", "FloatStorage", Global::Storage(DType::F32)),
    ("torch", "HalfStorage", Global::Storage(DType::F16)),
    ("torch", "BFloat16Storage", Global::Storage(DType::BF16)),
    ("torch", "LongStorage", Global::Storage(DType::I64)),
    ("torch", "IntStorage", Global::Storage(DType::I32)),
    ("torch", "ShortStorage", Global::Storage(DType::I16)),
    ("torch", "CharStorage", Global::Storage(DType::I8)),
    ("torch", "ByteStorage", Global::Storage(DType::U8)),
    ("torch", "BoolStorage", Global::Storage(BOOL)),
    ("torch", "UntypedStorage", Global::UntypedStorage),
    ("torch.storage", "UntypedStorage", Global::UntypedStorage),
    ("torch", "float64", Global::Dtype(DType::F64)),
    ("torch", "float32", Global::Dtype(DType::F32)),
    ("torch", "float16", Global::Dtype(DType::F16)),
    ("torch", "bfloat16", Global::Dtype(DType::BF16)),
    ("torch", "int64", Global::Dtype(DType::I64)),
    ("torch", "int32", Global::Dtype(DType::I32)),
    ("torch", "int16", Global::Dtype(DType::I16)),
    ("torch", "int8", Global::Dtype(DType::I8)),
    ("torch", "uint64", Global::Dtype(DType::U64)),
    ("torch", "uint32", Global::Dtype(DType::U32)),
    ("torch", "uint16", Global::Dtype(DType::U16)),
    ("torch", "uint8", Global::Dtype(DType::U8)),
    ("torch", "bool", Global::Dtype(BOOL)),
];

/// A run of elements that tensors are views of: a file of the archive, or a piece of the legacy file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Storage<'a> {
    pub key: &'a [u8],
    /// `None` for an untyped one, which counts bytes.
    pub dtype: Option<DType>,
    /// The elements from the beginning of the run on: of all of it, or of the piece that is meant.
    pub offset: u64,
    pub len: u64,
}

impl Storage<'_> {
    /// The size of one element, in bytes.
    pub(super) fn unit(&self) -> u64 {
        self.dtype.map_or(1, |dtype| dtype.size() as u64)
    }
}

/// A view of a storage; offset and strides count elements.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tensor {
    pub storage: usize,
    pub dtype: DType,
    pub offset: u64,
    pub rank: usize,
    pub sizes: [u64; MAX_RANK],
    pub strides: [u64; MAX_RANK],
}
