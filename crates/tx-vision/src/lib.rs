//! Vision: pictures, image processors, architectures and pipelines.
//!
//! | module | holds |
//! |---|---|
//! | [`image`] | a picture: opened by content, upright, RGB; resized and cropped as PIL does |
//! | [`models`] | every architecture |
//! | [`pipelines`] | pictures to results |
//! | [`postprocess`] | what detectors and segmenters give, as boxes and masks |
//! | [`draw`] | results on the picture |
//! | `maps` | sequences as maps, and back |
//! | [`processor`] | `preprocessor_config.json`: from a picture to a model's `pixel_values` |

pub mod draw;
pub mod image;
mod maps;
pub mod models;
pub mod pipelines;
pub mod postprocess;
pub mod processor;
