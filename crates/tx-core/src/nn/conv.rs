//! Convolutions, and the normalisations that come with them.

use burn::module::{Module, Param};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor};
use tx_kernels::Epilogue;

use super::adapter::value;
use super::{Activation, INITIALIZER_RANGE, constant, normal};

/// A convolution over pictures. The weight keeps the checkpoint's layout.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `[out, in / groups, kernel_height, kernel_width]`
    pub weight: Param<Tensor<4>>,
    /// `[out]`
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    stride: [usize; 2],
    /// Before and after each axis.
    #[module(skip)]
    padding: [[usize; 2]; 2],
    #[module(skip)]
    dilation: usize,
    #[module(skip)]
    groups: usize,
}

impl Conv2d {
    /// `input` channels to `output` channels, with stride 1 and neither padding nor bias.
    pub fn new(input: usize, output: usize, kernel: [usize; 2], device: &Device) -> Self {
        Self {
            weight: normal([output, input, kernel[0], kernel[1]], INITIALIZER_RANGE, device),
            bias: None,
            stride: [1, 1],
            padding: [[0, 0]; 2],
            dilation: 1,
            groups: 1,
        }
    }

    /// With a bias if `bias`.
    pub fn with_bias(self, bias: bool) -> Self {
        let shape = self.weight.lazy_shape();
        let output = shape[0];
        let device = self.weight.lazy_device();
        Self { bias: bias.then(|| constant([output], 0.0, &device)), ..self }
    }

    /// Over every `stride`-th row and column.
    pub fn with_stride(self, stride: usize) -> Self {
        Self { stride: [stride, stride], ..self }
    }

    /// Over rows and columns at these distances.
    pub fn with_strides(self, stride: [usize; 2]) -> Self {
        Self { stride, ..self }
    }

    /// With as many rows and columns of zeros on each side.
    pub fn with_padding(self, padding: usize) -> Self {
        Self { padding: [[padding, padding]; 2], ..self }
    }

    /// With zeros before and after the height and the width.
    pub fn with_paddings(self, padding: [[usize; 2]; 2]) -> Self {
        Self { padding, ..self }
    }

    /// With `dilation - 1` pixels between those that a kernel sees.
    pub fn with_dilation(self, dilation: usize) -> Self {
        Self { dilation, ..self }
    }

    /// In `groups` groups of channels that do not see each other; both numbers of channels have to be multiples of it.
    pub fn with_groups(self, groups: usize) -> Self {
        let [output, input, height, width] = self.kernel();
        let weight = normal([output, input / groups, height, width], INITIALIZER_RANGE, &self.weight.lazy_device());
        Self { weight, groups, ..self }
    }

    /// # Shapes
    /// - x: `[batch, in, height, width]`
    /// - output: `[batch, out, height', width']`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.run(x, Epilogue { shift: self.bias.as_ref().map(value), ..Epilogue::default() })
    }

    /// `act(forward(x))`, in one pass.
    ///
    /// # Shapes
    /// - x: `[batch, in, height, width]`
    /// - output: `[batch, out, height', width']`
    pub fn forward_activated(&self, x: Tensor<4>, act: Activation) -> Tensor<4> {
        let Some(pointwise) = act.pointwise() else { return act.forward(self.forward(x)) };
        let shift = self.bias.as_ref().map(value);
        self.run(x, Epilogue { shift, act: Some(pointwise), ..Epilogue::default() })
    }

    /// `act(norm(forward(x)) + residual)`, in one pass.
    ///
    /// # Shapes
    /// - x: `[batch, in, height, width]`
    /// - residual, output: `[batch, out, height', width']`
    pub fn forward_normed(
        &self,
        x: Tensor<4>,
        norm: &BatchNorm2d,
        residual: Option<Tensor<4>>,
        act: Activation,
    ) -> Tensor<4> {
        let (scale, mut shift) = norm.scale_and_shift();
        if let Some(bias) = &self.bias {
            shift = shift + value(bias) * scale.clone();
        }
        let pointwise = act.pointwise();
        let y = self.run(x, Epilogue { scale: Some(scale), shift: Some(shift), residual, act: pointwise });
        if pointwise.is_some() { y } else { act.forward(y) }
    }

    /// The pictures in patches of the kernel's size, each as a vector; for a stride of that size and no padding. Rows and
    /// columns that make no whole patch are left out.
    ///
    /// # Shapes
    /// - x: `[batch, in, height, width]`
    /// - output: `[batch, height / kernel_height · width / kernel_width, out]`
    pub fn forward_patches(&self, x: Tensor<4>) -> Tensor<3> {
        let [output, channels, ph, pw] = self.kernel();
        let [batch, _, height, width] = x.dims();
        let [rows, columns] = [height / ph, width / pw];
        let x = x.narrow(2, 0, rows * ph).narrow(3, 0, columns * pw);
        let x = x.reshape([batch, channels, rows, ph, columns, pw]).permute([0, 2, 4, 1, 3, 5]);
        let x = x.reshape([batch, rows * columns, channels * ph * pw]);
        let weight = value(&self.weight).reshape([output, channels * ph * pw]);
        tx_kernels::linear(x, weight, self.bias.as_ref().map(value), None)
    }

    /// The shape of the weight.
    fn kernel(&self) -> [usize; 4] {
        self.weight.lazy_shape().dims()
    }

    fn run(&self, x: Tensor<4>, epilogue: Epilogue) -> Tensor<4> {
        let padding = self.padding.map(|[before, after]| (before, after));
        let options = ConvOptions::new_with_padding(self.stride, padding, [self.dilation; 2], self.groups);
        tx_kernels::conv2d(x, value(&self.weight), &options, epilogue)
    }
}

/// A convolution over sounds. The weight keeps the checkpoint's layout.
#[derive(Module, Debug)]
pub struct Conv1d {
    /// `[out, in / groups, kernel]`
    pub weight: Param<Tensor<3>>,
    /// `[out]`
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    stride: usize,
    #[module(skip)]
    padding: usize,
    #[module(skip)]
    groups: usize,
}

impl Conv1d {
    /// `input` channels to `output` channels, with stride 1 and neither padding nor bias.
    pub fn new(input: usize, output: usize, kernel: usize, device: &Device) -> Self {
        let weight = normal([output, input, kernel], INITIALIZER_RANGE, device);
        Self { weight, bias: None, stride: 1, padding: 0, groups: 1 }
    }

    /// With a bias if `bias`.
    pub fn with_bias(self, bias: bool) -> Self {
        let output = self.weight.lazy_shape()[0];
        let device = self.weight.lazy_device();
        Self { bias: bias.then(|| constant([output], 0.0, &device)), ..self }
    }

    /// Over every `stride`-th place.
    pub fn with_stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    /// With as many zeros on each side.
    pub fn with_padding(self, padding: usize) -> Self {
        Self { padding, ..self }
    }

    /// In `groups` groups of channels that do not see each other; both numbers of channels have to be multiples of it.
    pub fn with_groups(self, groups: usize) -> Self {
        let [output, input, kernel] = self.weight.lazy_shape().dims();
        let weight = normal([output, input / groups, kernel], INITIALIZER_RANGE, &self.weight.lazy_device());
        Self { weight, groups, ..self }
    }

    /// # Shapes
    /// - x: `[batch, in, length]`
    /// - output: `[batch, out, length']`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.run(x, None)
    }

    /// `act(forward(x))`, in one pass.
    ///
    /// # Shapes
    /// - x: `[batch, in, length]`
    /// - output: `[batch, out, length']`
    pub fn forward_activated(&self, x: Tensor<3>, act: Activation) -> Tensor<3> {
        let pointwise = act.pointwise();
        let y = self.run(x, pointwise);
        if pointwise.is_some() { y } else { act.forward(y) }
    }

    fn run(&self, x: Tensor<3>, act: Option<tx_kernels::Pointwise>) -> Tensor<3> {
        conv1d(x, value(&self.weight), self.bias.as_ref().map(value), self.stride, self.padding, self.groups, act)
    }
}

/// A convolution over sounds with a weight that is made for it.
///
/// # Shapes
/// - x: `[batch, in, length]`
/// - weight: `[out, in / groups, kernel]`
/// - bias: `[out]`
/// - output: `[batch, out, length']`
pub fn conv1d(
    x: Tensor<3>,
    weight: Tensor<3>,
    bias: Option<Tensor<1>>,
    stride: usize,
    padding: usize,
    groups: usize,
    act: Option<tx_kernels::Pointwise>,
) -> Tensor<3> {
    let options = ConvOptions::new([1, stride], [0, padding], [1, 1], groups);
    let epilogue = Epilogue { shift: bias, act, ..Epilogue::default() };
    tx_kernels::conv2d(x.unsqueeze_dim(2), weight.unsqueeze_dim(2), &options, epilogue).squeeze_dim(2)
}

/// A normalisation of every channel by statistics of the training. Ioffe & Szegedy, 2015 (arXiv:1502.03167).
#[derive(Module, Debug)]
pub struct BatchNorm2d {
    /// `[channels]`
    pub weight: Param<Tensor<1>>,
    /// `[channels]`
    pub bias: Param<Tensor<1>>,
    /// `[channels]`
    pub running_mean: Param<Tensor<1>>,
    /// `[channels]`
    pub running_var: Param<Tensor<1>>,
    #[module(skip)]
    eps: f64,
}

impl BatchNorm2d {
    /// A norm over `channels` channels.
    pub fn new(channels: usize, eps: f64, device: &Device) -> Self {
        Self {
            weight: constant([channels], 1.0, device),
            bias: constant([channels], 0.0, device),
            running_mean: constant([channels], 0.0, device),
            running_var: constant([channels], 1.0, device),
            eps,
        }
    }

    /// # Shapes
    /// - x, output: `[batch, channels, ..]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let (scale, shift) = self.scale_and_shift();
        let mut shape = [1; D];
        shape[1] = scale.dims()[0];
        x * scale.reshape(shape) + shift.reshape(shape)
    }

    /// What the norm multiplies with, and what it adds then.
    ///
    /// # Shapes
    /// - output: `[channels]` each
    pub fn scale_and_shift(&self) -> (Tensor<1>, Tensor<1>) {
        let scale = value(&self.weight) / (self.running_var.val() + self.eps).sqrt();
        let shift = value(&self.bias) - self.running_mean.val() * scale.clone();
        (scale, shift)
    }
}

/// A normalisation of groups of channels over all places. Wu & He, 2018 (arXiv:1803.08494).
#[derive(Module, Debug)]
pub struct GroupNorm {
    /// `[channels]`
    pub weight: Param<Tensor<1>>,
    /// `[channels]`
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    groups: usize,
    #[module(skip)]
    eps: f64,
}

impl GroupNorm {
    /// `channels` channels in `groups` groups.
    pub fn new(groups: usize, channels: usize, eps: f64, device: &Device) -> Self {
        Self { weight: constant([channels], 1.0, device), bias: constant([channels], 0.0, device), groups, eps }
    }

    /// # Shapes
    /// - x, output: `[batch, channels, ..]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        tx_kernels::group_norm(x, self.groups, value(&self.weight), value(&self.bias), self.eps)
    }
}
