"""tests/data/images: pictures of every kind that PIL reads, and what transformers' PIL processors make of some.

`pictures/` holds the files, `processors/<name>/preprocessor_config.json` the settings. `golden.json` says which
processor is applied to which pictures, alone or as a batch. `expected.safetensors` holds

    rgb.<file>                          [height, width, 3], uint8: the picture after `load_image`
    values.<processor>.<file>           [3, height, width]: its pixel values; of large ones `[0]` are every 997th
    batch.<processor>.values, .mask     of a batch

Needs Pillow 13.0.0, which is the oracle for decoding and resizing; its releases before 13 resize pictures that are much
higher than wide in another order of the passes. Two photographs come from scikit-learn's data sets.
"""

import importlib
import io
import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL
import sklearn
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.numpy import save_file
from transformers.image_utils import load_image

PILLOW = "13.0.0"
# Pixel values of more elements are recorded by every STEP-th.
LARGE, STEP = 20_000, 997

CREDITS = """# Pictures

All files are made by `xtask/reference/goldens_images.py`. Four of them show parts of photographs that scikit-learn
ships, released under CC BY 2.0 (https://creativecommons.org/licenses/by/2.0/):

- `photo.png`, `photo.jpg`, `photo-progressive.jpg`: from china.jpg, by danielbuechele,
  https://www.flickr.com/photos/danielbuechele/6061409035/
- `flower.jpg`: from flower.jpg, by vultilion, https://www.flickr.com/photos/vultilion/6056698931/
"""


def noise(seed: int, height: int, width: int, channels: int) -> np.ndarray:
    """Waves, edges and noise: smooth and sharp places, and both ends of the range."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [128 + 120 * np.sin(x / (3 + i) + i) * np.cos(y / (4.5 - i / 2)) for i in range(channels)]
    values = np.stack(waves, -1) + generator.normal(0, 20, (height, width, channels))
    values[height // 3 : height // 2, width // 4 : width // 2] = [255, 0, 128, 30][:channels]
    return values.clip(0, 255).astype(np.uint8)


def picture(seed: int, height: int, width: int, mode: str = "RGB") -> Image.Image:
    channels = len(Image.new(mode, (1, 1)).getbands())
    array = noise(seed, height, width, channels)
    return Image.fromarray(array[..., 0] if channels == 1 else array, mode=mode)


def saved(image: Image.Image, format: str, **arguments) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **arguments)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(array: np.ndarray, depth: int, colour: int, interlaced: bool = False, more: bytes = b"") -> bytes:
    """A PNG of a kind that PIL does not write; `array` holds the samples."""
    height, width = array.shape[:2]

    def rows(part: np.ndarray) -> bytes:
        big = part.astype(">u2") if depth == 16 else part.astype(np.uint8)
        if depth < 8:
            per_byte = 8 // depth
            padded = np.pad(big, ((0, 0), (0, -big.shape[1] % per_byte)))
            shifts = np.arange(8 - depth, -1, -depth)
            big = (padded.reshape(len(padded), -1, per_byte) << shifts).sum(-1).astype(np.uint8)
        return b"".join(b"\0" + row.tobytes() for row in big)

    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [array[y::down, x::across] for y, x, down, across in passes] if interlaced else [array]
    data = b"".join(rows(part) for part in parts if part.size)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    body = chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def bmp(bits: int, compression: int, width: int, height: int, data: bytes, table: bytes = b"") -> bytes:
    """A bitmap of a kind that PIL does not write; `table` holds masks or the palette."""
    offset = 14 + 40 + len(table)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + header + table + data


def resampled(file: bytes, sampling: int, width: int, height: int) -> bytes:
    """A JPEG whose brightness has another sampling, of as many blocks in a unit: another picture, but a right one."""
    edited = bytearray(file)
    frame = max(edited.find(b"\xff\xc0"), edited.find(b"\xff\xc2"))
    edited[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    edited[frame + 11] = sampling
    return bytes(edited)


def orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


def xmp(value: int) -> str:
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="{value}"/></x:xmpmeta>'


def photographs() -> dict[str, bytes]:
    folder = Path(sklearn.__file__).parent / "datasets/images"
    china = Image.open(folder / "china.jpg").convert("RGB").crop((120, 90, 440, 330))
    flower = Image.open(folder / "flower.jpg").convert("RGB").crop((180, 60, 500, 380))
    small = china.resize((128, 96), Image.Resampling.BICUBIC)
    return {
        "photo.png": saved(small, "PNG", optimize=True),
        "photo.jpg": saved(china.crop((60, 40, 217, 157)), "JPEG", quality=85),
        "photo-progressive.jpg": saved(small, "JPEG", quality=75, progressive=True),
        "flower.jpg": saved(flower.resize((101, 100), Image.Resampling.LANCZOS), "JPEG", quality=92, subsampling=1),
    }


def pngs() -> dict[str, bytes]:
    palette = picture(3, 23, 37).quantize(16)
    clear = picture(4, 23, 37).quantize(200)
    wide_grey = noise(5, 23, 37, 1)[..., 0].astype(np.uint16) * 3
    wide = noise(6, 11, 13, 4).astype(np.uint16) * 257 - 60
    grey = noise(7, 23, 37, 1)[..., 0]
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp(6))
    small = picture(8, 16, 24)
    return {
        "rgb.png": saved(picture(1, 64, 64), "PNG"),
        "tall.png": saved(picture(2, 97, 20), "PNG"),
        "wide.png": saved(picture(9, 20, 300), "PNG"),
        "dot.png": saved(picture(10, 1, 1), "PNG"),
        "line.png": saved(picture(11, 1, 50), "PNG"),
        "grey.png": saved(picture(12, 23, 37, "L"), "PNG"),
        "grey-alpha.png": saved(picture(13, 23, 37, "LA"), "PNG"),
        "alpha.png": saved(picture(14, 23, 37, "RGBA"), "PNG"),
        "bits.png": saved(picture(15, 23, 37, "L").convert("1"), "PNG"),
        "palette.png": saved(palette, "PNG", bits=4),
        "palette-clear.png": saved(clear, "PNG", transparency=7),
        "palette-alpha.png": saved(clear, "PNG", transparency=bytes(range(0, 200))),
        "grey-2.png": png(grey >> 6, 2, 0),
        "grey-4.png": png(grey >> 4, 4, 0),
        "grey-16.png": png(wide_grey, 16, 0),
        "grey-16-clear.png": png(wide_grey, 16, 0, more=chunk(b"tRNS", struct.pack(">H", 300))),
        "grey-clear.png": png(grey, 8, 0, more=chunk(b"tRNS", struct.pack(">H", 100))),
        "grey-alpha-16.png": png(wide[..., :2], 16, 4),
        "rgb-16.png": png(wide[..., :3], 16, 2),
        "alpha-16.png": png(wide, 16, 6),
        "interlaced.png": png(noise(16, 23, 37, 3), 8, 2, interlaced=True),
        "interlaced-1.png": png(grey >> 7, 1, 0, interlaced=True),
        "exif.png": saved(small, "PNG", exif=orientation(8)),
        "xmp.png": saved(small, "PNG", pnginfo=info),
        "animated.png": saved(small, "PNG", save_all=True, append_images=[picture(17, 16, 24)]),
    }


def jpegs() -> dict[str, bytes]:
    image = picture(20, 23, 37)
    units = picture(21, 64, 64)
    inks = saved(picture(22, 23, 37, "CMYK"), "JPEG", quality=90)
    # Adobe's segment: brightness and colours of the inks.
    coded = inks.replace(b"Adobe\0\x64\0\0\0\0\0", b"Adobe\0\x64\0\0\0\0\2")
    assert coded != inks
    tags = {f"exif-{n}.jpg": saved(picture(23, 16, 24), "JPEG", exif=orientation(n)) for n in range(1, 9)}
    return tags | {
        "444.jpg": saved(image, "JPEG", subsampling=0),
        "422.jpg": saved(image, "JPEG", subsampling=1, quality=95),
        "420.jpg": saved(image, "JPEG", subsampling=2, quality=30),
        "440.jpg": resampled(saved(units, "JPEG", subsampling=1), 0x12, 31, 127),
        "411.jpg": resampled(saved(units, "JPEG", subsampling=2), 0x41, 125, 31),
        "narrow.jpg": saved(picture(24, 19, 3), "JPEG"),
        "dot.jpg": saved(picture(25, 1, 1), "JPEG"),
        "progressive.jpg": saved(image, "JPEG", progressive=True, quality=90),
        "progressive-444.jpg": saved(image, "JPEG", progressive=True, subsampling=0, quality=98),
        "progressive-grey.jpg": saved(picture(26, 23, 37, "L"), "JPEG", progressive=True),
        "restarts.jpg": saved(image, "JPEG", restart_marker_blocks=2),
        "progressive-restarts.jpg": saved(image, "JPEG", progressive=True, restart_marker_rows=1),
        "grey.jpg": saved(picture(27, 23, 37, "L"), "JPEG"),
        "rgb.jpg": saved(image, "JPEG", keep_rgb=True),
        "cmyk.jpg": inks,
        "ycck.jpg": coded,
        "xmp.jpg": saved(picture(28, 16, 24), "JPEG", xmp=xmp(5).encode()),
    }


def others() -> dict[str, bytes]:
    image = picture(30, 23, 37)
    alpha = picture(31, 23, 37, "RGBA")
    palette = picture(32, 23, 37).quantize(64)
    frames = [picture(33, 23, 37).quantize(32), picture(34, 23, 37).quantize(32)]
    still = saved(palette, "GIF", transparency=3)
    # The first frame does not cover the screen.
    larger = bytearray(still)
    larger[6:10] = struct.pack("<HH", 45, 30)
    fields = noise(35, 5, 6, 2).view("<u2")[..., 0]
    runs = bytes.fromhex("0307 0003010203 00 0000 0205 00020300 0109 0000 0601 0000 0608 0001")
    nibbles = bytes.fromhex("0512 0000 0004 1234 0150 0000 0567 0001")
    colours = b"".join(bytes([10 * i, 255 - 9 * i, 3 * i, 0]) for i in range(16))
    grey16 = Image.fromarray(noise(36, 23, 37, 1)[..., 0].astype(np.uint16) * 5)
    return {
        "palette.gif": still,
        "larger-screen.gif": bytes(larger),
        "animated.gif": saved(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100),
        "interlaced.gif": saved(palette, "GIF", interlace=True),
        "grey.gif": saved(picture(37, 23, 37, "L"), "GIF"),
        "lossless.webp": saved(image, "WEBP", lossless=True),
        "lossless-alpha.webp": saved(alpha, "WEBP", lossless=True, exact=True),
        "lossy.webp": saved(image, "WEBP", quality=70),
        "lossy-alpha.webp": saved(alpha, "WEBP", quality=80),
        "exif.webp": saved(picture(38, 16, 24), "WEBP", lossless=True, exif=orientation(6)),
        "animated.webp": saved(image, "WEBP", lossless=True, save_all=True, append_images=[picture(39, 23, 37)]),
        "rgb.bmp": saved(image, "BMP"),
        "palette.bmp": saved(palette, "BMP"),
        "grey.bmp": saved(picture(40, 23, 37, "L"), "BMP"),
        "bits.bmp": saved(picture(41, 23, 37, "L").convert("1"), "BMP"),
        "alpha.bmp": saved(alpha, "BMP"),
        "555.bmp": bmp(16, 0, 6, 5, fields.tobytes()),
        "565.bmp": bmp(16, 3, 6, 5, fields.tobytes(), struct.pack("<III", 0xF800, 0x7E0, 0x1F)),
        "top-down.bmp": bmp(24, 0, 4, -3, noise(42, 3, 4, 3).tobytes()),
        "runs-8.bmp": bmp(8, 1, 6, 4, runs, colours * 16),
        "runs-4.bmp": bmp(4, 2, 5, 3, nibbles, colours),
        "rgb.tif": saved(image, "TIFF"),
        "lzw.tif": saved(image, "TIFF", compression="tiff_lzw"),
        "deflate.tif": saved(image, "TIFF", compression="tiff_adobe_deflate"),
        "packbits.tif": saved(picture(43, 23, 37, "L"), "TIFF", compression="packbits"),
        "bits.tif": saved(picture(44, 23, 37, "L").convert("1"), "TIFF"),
        "grey-16.tif": saved(grey16, "TIFF"),
        "alpha.tif": saved(alpha, "TIFF"),
        "grey-alpha.tif": saved(picture(45, 23, 37, "LA"), "TIFF"),
        "cmyk.tif": saved(picture(46, 23, 37, "CMYK"), "TIFF"),
        "turned.tif": saved(picture(47, 16, 24), "TIFF", tiffinfo={274: 6}),
        "png-in-name.jpg": saved(picture(48, 9, 12), "PNG"),
        "no-name": saved(picture(49, 9, 12), "JPEG"),
    }


def refused() -> dict[str, bytes]:
    """Files that must be errors; see `images.rs`."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    zeros = zlib.compress(bytes(60_000_000), 9)
    bomb = chunk(b"IHDR", header) + chunk(b"IDAT", zeros[: 60 * 1024]) + chunk(b"IEND", b"")
    return {"bomb.png": b"\x89PNG\r\n\x1a\n" + bomb[: 8 + 13 + 4 + 8 + 1024]}


MEANS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALVES = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
FEW = ["photo.png", "tall.png", "wide.png"]
ALL = [*FEW, "rgb.png", "dot.png"]

# Name, class, preprocessor_config.json, pictures. Where the settings name no class, it is put in.
PROCESSORS: list[tuple[str, str, dict, list[str]]] = [
    (
        "vit",
        "vit.ViT",
        {"feature_extractor_type": "ViTFeatureExtractor", "do_normalize": True, "do_resize": True, "size": 24} | HALVES,
        ALL,
    ),
    ("vit-default", "vit.ViT", {"image_processor_type": "ViTImageProcessorFast"}, ["photo.jpg", "grey.png"]),
    (
        "vit-without-mean",
        "vit.ViT",
        {"do_normalize": False, "size": {"height": 17, "width": 31}},
        FEW,
    ),
    (
        "vit-bytes",
        "vit.ViT",
        {"do_normalize": False, "do_rescale": False, "size": 12},
        FEW,
    ),
    (
        "vit-normalised-bytes",
        "vit.ViT",
        {"do_rescale": False, "image_mean": 100, "image_std": 60.5, "size": 9},
        FEW,
    ),
    (
        "vit-scaled",
        "vit.ViT",
        {"rescale_factor": 0.00784313725490196, "size": [10, 20]},
        FEW,
    ),
    (
        "vit-within",
        "vit.ViT",
        {"size": {"max_height": 30, "max_width": 20}},
        FEW,
    ),
    (
        "vit-cropped",
        "vit.ViT",
        {"do_resize": False, "do_center_crop": True, "crop_size": 25},
        [*FEW, "dot.png", "interlaced.png"],
    ),
    *(
        (
            f"vit-filter-{number}",
            "vit.ViT",
            {"resample": number, "size": {"height": 26, "width": 21}} | MEANS,
            ["photo.png", "tall.png", "grey.png"],
        )
        for number in range(6)
    ),
    ("swin", "vit.ViT", {"feature_extractor_type": "ViTFeatureExtractor", "resample": 3, "size": 24} | MEANS, FEW),
    (
        "deit",
        "deit.DeiT",
        {
            "crop_size": 24,
            "do_center_crop": True,
            "feature_extractor_type": "DeiTFeatureExtractor",
            "resample": 3,
            "size": 28,
        }
        | MEANS,
        ALL,
    ),
    ("deit-default", "deit.DeiT", {}, ["photo.jpg"]),
    (
        "beit",
        "beit.Beit",
        {"feature_extractor_type": "BeitFeatureExtractor", "crop_size": 20, "resample": 2, "size": 24} | HALVES,
        FEW,
    ),
    (
        "beit-cropped",
        "beit.Beit",
        {"do_center_crop": True, "crop_size": 20, "size": 24},
        FEW,
    ),
    (
        "dinov2",
        "bit.Bit",
        {
            "crop_size": {"height": 24, "width": 24},
            "do_center_crop": True,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "resample": 3,
            "rescale_factor": 0.00392156862745098,
            "size": {"shortest_edge": 27},
        }
        | MEANS,
        ALL,
    ),
    ("bit-default", "bit.Bit", {}, ["photo.jpg"]),
    (
        "convnext",
        "convnext.ConvNext",
        {"crop_pct": 0.875, "size": {"shortest_edge": 24}} | MEANS,
        ALL,
    ),
    (
        "resnet",
        "convnext.ConvNext",
        {"feature_extractor_type": "ConvNextFeatureExtractor", "crop_pct": 0.95, "resample": 3, "size": 23} | MEANS,
        FEW,
    ),
    ("convnext-default", "convnext.ConvNext", {}, ["photo.png"]),
    (
        "segformer",
        "segformer.Segformer",
        {"feature_extractor_type": "SegformerFeatureExtractor", "reduce_labels": True, "size": 24} | MEANS,
        ALL,
    ),
    (
        "segformer-wide",
        "segformer.Segformer",
        {"size": {"height": 16, "width": 40}, "do_reduce_labels": True},
        FEW,
    ),
    (
        "mobilenet_v2",
        "mobilenet_v2.MobileNetV2",
        {
            "crop_size": {"height": 24, "width": 24},
            "size": {"shortest_edge": 28},
        },
        ALL,
    ),
    ("mobilenet_v2-default", "mobilenet_v2.MobileNetV2", {}, ["rgb.png"]),
    (
        "clip",
        "clip.CLIP",
        {
            "crop_size": 24,
            "do_center_crop": True,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "CLIPFeatureExtractor",
            "resample": 3,
            "size": 24,
        }
        | CLIP,
        ALL,
    ),
    ("clip-default", "clip.CLIP", {}, ["photo.jpg", "flower.jpg"]),
    (
        "clip-long",
        "clip.CLIP",
        {
            "crop_size": {"height": 30, "width": 22},
            "size": {"shortest_edge": 24, "longest_edge": 60},
        },
        FEW,
    ),
    (
        "siglip",
        "siglip.Siglip",
        {"resample": 3, "size": {"height": 24, "width": 24}} | HALVES,
        ALL,
    ),
    ("siglip-edge", "siglip.Siglip", {"size": 12}, FEW[:2]),
    (
        "chinese_clip",
        "chinese_clip.ChineseCLIP",
        {
            "crop_size": {"height": 24, "width": 24},
            "do_center_crop": False,
            "size": {"height": 24, "width": 24},
        },
        FEW,
    ),
    (
        "detr",
        "detr.Detr",
        {"feature_extractor_type": "DetrFeatureExtractor", "format": "coco_detection", "max_size": 40, "size": 24}
        | MEANS,
        FEW,
    ),
    (
        "detr-small",
        "detr.Detr",
        {"size": {"shortest_edge": 20, "longest_edge": 300}},
        ["rgb.png", "grey.png", "tall.png"],
    ),
    ("detr-default", "detr.Detr", {}, ["rgb.png"]),
    (
        "detr-padded",
        "detr.Detr",
        {
            "pad_size": {"height": 40, "width": 45},
            "size": {"shortest_edge": 24, "longest_edge": 40},
        },
        FEW,
    ),
    (
        "yolos",
        "yolos.Yolos",
        {"feature_extractor_type": "YolosFeatureExtractor", "max_size": 70, "size": 40} | MEANS,
        ["photo.png", "rgb.png", "grey.png"],
    ),
    (
        "yolos-unmasked",
        "yolos.Yolos",
        {
            "do_pad": False,
            "size": {"shortest_edge": 33, "longest_edge": 50},
        },
        ["photo.png", "grey.png"],
    ),
]
# Processors whose pictures also make a batch.
BATCHES = ("detr", "detr-padded", "yolos")


def processor_class(name: str):
    """The class `XImageProcessorPil` of a module, `module.X`."""
    module, prefix = name.split(".")
    module = importlib.import_module(f"transformers.models.{module}.image_processing_pil_{module}")
    return getattr(module, f"{prefix}ImageProcessorPil")


def record(out: Path) -> None:
    if PIL.__version__ != PILLOW:
        raise SystemExit(f"Pillow {PIL.__version__} is installed, pictures are recorded with {PILLOW}")
    folder = out / "images"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "pictures").mkdir(parents=True)
    (folder / "refused").mkdir()
    (folder / "README.md").write_text(CREDITS)
    pictures = photographs() | pngs() | jpegs() | others()
    for name, content in refused().items():
        (folder / "refused" / name).write_bytes(content)
    expected, loaded = {}, {}
    for name, content in sorted(pictures.items()):
        path = folder / "pictures" / name
        path.write_bytes(content)
        loaded[name] = load_image(str(path))
        expected[f"rgb.{name}"] = np.array(loaded[name])
    golden = []
    for name, class_name, config, inputs in PROCESSORS:
        settings = folder / "processors" / name
        settings.mkdir(parents=True)
        if "feature_extractor_type" not in config:
            config = {"image_processor_type": f"{class_name.split('.')[1]}ImageProcessor"} | config
        (settings / "preprocessor_config.json").write_text(json.dumps(config, indent=2) + "\n")
        processor = processor_class(class_name).from_pretrained(settings)
        entry = {"processor": name, "pictures": [], "batch": None}
        for file in inputs:
            values = processor(loaded[file], return_tensors="np")["pixel_values"][0]
            # With a size to pad to, a picture alone is padded too, which only a batch is here.
            if "pad_size" not in config:
                large = values.size > LARGE
                entry["pictures"].append({"file": file, "shape": list(values.shape), "large": large})
                values = values.reshape(-1)[::STEP] if large else values
                expected[f"values.{name}.{file}"] = np.ascontiguousarray(values, dtype=np.float32)
        if name in BATCHES:
            batch = processor([loaded[file] for file in inputs], return_tensors="np")
            entry["batch"] = {"files": inputs, "mask": "pixel_mask" in batch}
            expected[f"batch.{name}.values"] = np.ascontiguousarray(batch["pixel_values"], dtype=np.float32)
            if "pixel_mask" in batch:
                expected[f"batch.{name}.mask"] = np.ascontiguousarray(batch["pixel_mask"], dtype=np.int64)
        golden.append(entry)
    (folder / "golden.json").write_text(json.dumps(golden, indent=2) + "\n")
    save_file(dict(sorted(expected.items())), folder / "expected.safetensors")
