//! Every vision architecture. Add a file, a `mod` line and the lines of its heads; keep all of them sorted.

mod beit;
mod convnext;
mod deit;
mod detr;
mod dinov2;
mod dinov2_with_registers;
mod mobilenet_v2;
mod resnet;
mod segformer;
mod swin;
mod vit;
mod yolos;

use tx_core::registry::{
    Class, Entry, image_classifier, image_segmenter, lines, masked_image_model, object_detector, semantic_segmenter,
    vision_model,
};
use tx_core::task::{
    ImageClassifier, ImageSegmenter, MaskedImageModel, ObjectDetector, SemanticSegmenter, VisionModel,
};

/// Pictures to hidden states: HF's `AutoModel`.
pub static VISION_MODEL: &[Entry<dyn VisionModel>] = &[
    vision_model::<beit::BeitModel>("beit", "BeitModel"),
    vision_model::<convnext::ConvNextModel>("convnext", "ConvNextModel"),
    vision_model::<deit::DeiTModel>("deit", "DeiTModel"),
    vision_model::<detr::DetrModel>("detr", "DetrModel"),
    vision_model::<dinov2::Dinov2Model>("dinov2", "Dinov2Model"),
    vision_model::<dinov2_with_registers::Dinov2WithRegistersModel>(
        "dinov2_with_registers",
        "Dinov2WithRegistersModel",
    ),
    vision_model::<mobilenet_v2::MobileNetV2Model>("mobilenet_v2", "MobileNetV2Model"),
    vision_model::<resnet::ResNetModel>("resnet", "ResNetModel"),
    vision_model::<segformer::SegformerModel>("segformer", "SegformerModel"),
    vision_model::<swin::SwinModel>("swin", "SwinModel"),
    vision_model::<vit::ViTModel>("vit", "ViTModel"),
    vision_model::<yolos::YolosModel>("yolos", "YolosModel"),
];

/// HF's `AutoModelForImageClassification`. Where an architecture has two classes, the config names the one meant.
pub static IMAGE_CLASSIFICATION: &[Entry<dyn ImageClassifier>] = &[
    image_classifier::<beit::BeitForImageClassification>("beit", "BeitForImageClassification"),
    image_classifier::<convnext::ConvNextForImageClassification>("convnext", "ConvNextForImageClassification"),
    image_classifier::<deit::DeiTForImageClassification>("deit", "DeiTForImageClassification"),
    image_classifier::<deit::DeiTForImageClassificationWithTeacher>("deit", "DeiTForImageClassificationWithTeacher"),
    image_classifier::<dinov2::Dinov2ForImageClassification>("dinov2", "Dinov2ForImageClassification"),
    image_classifier::<dinov2_with_registers::Dinov2WithRegistersForImageClassification>(
        "dinov2_with_registers",
        "Dinov2WithRegistersForImageClassification",
    ),
    image_classifier::<mobilenet_v2::MobileNetV2ForImageClassification>(
        "mobilenet_v2",
        "MobileNetV2ForImageClassification",
    ),
    image_classifier::<resnet::ResNetForImageClassification>("resnet", "ResNetForImageClassification"),
    image_classifier::<segformer::SegformerForImageClassification>("segformer", "SegformerForImageClassification"),
    image_classifier::<swin::SwinForImageClassification>("swin", "SwinForImageClassification"),
    image_classifier::<vit::ViTForImageClassification>("vit", "ViTForImageClassification"),
];

/// HF's `AutoModelForMaskedImageModeling`, and BEiT's class, which gives no pixels.
pub static MASKED_IMAGE_MODELING: &[Entry<dyn MaskedImageModel>] = &[
    masked_image_model::<beit::BeitForMaskedImageModeling>("beit", "BeitForMaskedImageModeling"),
    masked_image_model::<deit::DeiTForMaskedImageModeling>("deit", "DeiTForMaskedImageModeling"),
    masked_image_model::<swin::SwinForMaskedImageModeling>("swin", "SwinForMaskedImageModeling"),
    masked_image_model::<vit::ViTForMaskedImageModeling>("vit", "ViTForMaskedImageModeling"),
];

/// HF's `AutoModelForSemanticSegmentation`.
pub static SEMANTIC_SEGMENTATION: &[Entry<dyn SemanticSegmenter>] = &[
    semantic_segmenter::<beit::BeitForSemanticSegmentation>("beit", "BeitForSemanticSegmentation"),
    semantic_segmenter::<mobilenet_v2::MobileNetV2ForSemanticSegmentation>(
        "mobilenet_v2",
        "MobileNetV2ForSemanticSegmentation",
    ),
    semantic_segmenter::<segformer::SegformerForSemanticSegmentation>("segformer", "SegformerForSemanticSegmentation"),
];

/// HF's `AutoModelForObjectDetection`.
pub static OBJECT_DETECTION: &[Entry<dyn ObjectDetector>] = &[
    object_detector::<detr::DetrForObjectDetection>("detr", "DetrForObjectDetection"),
    object_detector::<yolos::YolosForObjectDetection>("yolos", "YolosForObjectDetection"),
];

/// HF's `AutoModelForImageSegmentation`.
pub static IMAGE_SEGMENTATION: &[Entry<dyn ImageSegmenter>] =
    &[image_segmenter::<detr::DetrForSegmentation>("detr", "DetrForSegmentation")];

/// Every class of every table.
pub fn classes() -> Vec<&'static dyn Class> {
    lines(VISION_MODEL)
        .chain(lines(IMAGE_CLASSIFICATION))
        .chain(lines(MASKED_IMAGE_MODELING))
        .chain(lines(SEMANTIC_SEGMENTATION))
        .chain(lines(OBJECT_DETECTION))
        .chain(lines(IMAGE_SEGMENTATION))
        .collect()
}
