//! Where tensors live and in which dtype: the words of `--device` and `--dtype`.

use burn::tensor::{DType, Device, DeviceType};

use crate::error::{Error, Result};

/// The words of `--dtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dtype {
    /// As the checkpoint stores them.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// 16-bit floats with the range of f32.
    Bf16,
    /// 16-bit floats of IEEE 754.
    F16,
}

impl Dtype {
    /// The element type of the weights, if one was asked for.
    pub fn to_burn(self) -> Option<DType> {
        match self {
            Self::Auto => None,
            Self::F32 => Some(DType::F32),
            Self::Bf16 => Some(DType::BF16),
            Self::F16 => Some(DType::F16),
        }
    }
}

impl std::str::FromStr for Dtype {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        Ok(match s {
            "auto" => Self::Auto,
            "f32" | "float32" => Self::F32,
            "bf16" | "bfloat16" => Self::Bf16,
            "f16" | "float16" => Self::F16,
            _ => return Err(Error::input("--dtype", format_args!("`{s}`"), "auto, f32, bf16 or f16")),
        })
    }
}

/// The kinds of devices that this program was built with, and how they are written.
fn kinds() -> Vec<(&'static str, DeviceType)> {
    vec![
        #[cfg(feature = "flex")]
        ("cpu", DeviceType::Flex),
        #[cfg(feature = "ndarray")]
        ("ndarray", DeviceType::NdArray),
        #[cfg(feature = "wgpu")]
        ("wgpu", DeviceType::Wgpu),
        #[cfg(feature = "vulkan")]
        ("vulkan", DeviceType::Vulkan),
        #[cfg(feature = "metal")]
        ("metal", DeviceType::Metal),
        #[cfg(feature = "cuda")]
        ("cuda", DeviceType::Cuda),
        #[cfg(feature = "rocm")]
        ("rocm", DeviceType::Rocm),
    ]
}

/// The devices of this machine that this program can use, as `--device` takes them.
pub fn available() -> Vec<String> {
    let mut names = Vec::new();
    for (kind, device_type) in kinds() {
        let count = Device::enumerate(device_type).len();
        names.extend((0..count).map(|i| if count == 1 { kind.to_owned() } else { format!("{kind}:{i}") }));
    }
    names
}

/// Whether a device is the processor.
pub fn is_cpu(device: &Device) -> bool {
    self::device("cpu").is_ok_and(|cpu| cpu == *device)
}

/// Whether a device is a GPU that burn's CUDA backend drives.
pub fn is_cuda(device: &Device) -> bool {
    let cuda = kinds().into_iter().find(|(kind, _)| *kind == "cuda");
    cuda.is_some_and(|(_, device_type)| Device::enumerate(device_type).contains(device))
}

/// The first `count` devices of a kind such as `cuda`. The processor is one device, and that of all who ask for it.
///
/// # Errors
/// [`Error::Device`] if this program was built without the kind or the machine has fewer; [`Error::Input`] for the number
/// of one device in place of a kind.
pub fn first(kind: &str, count: usize) -> Result<Vec<Device>> {
    if kind.contains(':') {
        return Err(Error::input("--devices", format_args!("`--device {kind}`"), "a kind of device without a number"));
    }
    let one = device(kind)?;
    if is_cpu(&one) {
        return Ok(vec![one; count]);
    }
    (0..count).map(|index| device(&format!("{kind}:{index}"))).collect()
}

/// The device that `name` stands for: `cpu`, `cuda`, `cuda:1`, ….
///
/// # Errors
/// [`Error::Device`] if this program was built without it or the machine does not have it.
pub fn device(name: &str) -> Result<Device> {
    let wrong = |reason: String| Error::Device { device: name.to_owned(), reason, available: available().join(", ") };
    let (kind, index) = match name.split_once(':') {
        Some((kind, index)) => {
            (kind, index.parse::<usize>().map_err(|_| wrong(format!("`{index}` is not a device number")))?)
        }
        None => (name, 0),
    };
    let Some((_, device_type)) = kinds().into_iter().find(|(k, _)| *k == kind) else {
        let known = ["cpu", "ndarray", "wgpu", "vulkan", "metal", "cuda", "rocm"].contains(&kind);
        return Err(wrong(if known {
            format!("this program was built without it; build with `--features {kind}`")
        } else {
            "not a kind of device".to_owned()
        }));
    };
    let devices = Device::enumerate(device_type);
    if index >= devices.len() {
        return Err(wrong(format!("this machine has {} of this kind", devices.len())));
    }
    devices.into_iter().nth(index).ok_or_else(|| wrong("it vanished".to_owned()))
}
