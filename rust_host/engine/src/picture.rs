//! A picture file (PNG, JPEG) → an input tensor, as the contract's `image` says.

use crate::{
    Contract, Datatype, Error, Result, Tensor,
    contract::{Color, Image, Layout},
    foreign::Provisional,
};
use image::{DynamicImage, ImageReader, Limits, imageops::FilterType};
use std::io::Cursor;

/// Pictures that are wider or higher, or unpack to more, are refused before they are unpacked.
const LARGEST_SIDE: u32 = 16_384;
const MOST_BYTES: u64 = 512 << 20;

/// Whether the bytes begin as a picture that [`read`] knows.
pub fn is_picture(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x89PNG\r\n\x1a\n") || bytes.starts_with(&[0xff, 0xd8, 0xff])
}

/// Decodes a picture into a batch of one: `[1, channels, height, width]` or `[1, height, width, channels]`.
///
/// # Errors
/// `InvalidInput` if the picture cannot be decoded or is too large, or the contract has no `image`.
pub fn read(bytes: &[u8], contract: Option<&Contract>, input: &str, shown: &str) -> Result<Tensor> {
    let wrong = |text: String| Error::invalid_input(format!("`{shown}`: {text}"));
    let about = contract.and_then(|c| c.image.as_ref()).filter(|i| i.input == input);
    let datatype = contract.and_then(|c| c.inputs.iter().find(|i| i.name == input)).map(|i| i.datatype);
    let (Some(about), Some(datatype)) = (about, datatype) else {
        return Err(wrong(format!("no contract says how a picture becomes the input `{input}`"))
            .hint("give a .npy with the numbers, or export the model with an `image` section in its recipe"));
    };
    let picture = decode(bytes).map_err(wrong)?;
    to_tensor(picture, about, datatype).map_err(|e| wrong(e.message))
}

/// The same by a file that nobody checked ([`Provisional`]). It says the size, but not whether a picture of another shape is
/// stretched, cut or padded to it.
///
/// # Errors
/// `InvalidInput` if the picture cannot be decoded, is too large, or is wider or higher in proportion.
pub fn read_provisional(bytes: &[u8], by: &Provisional, about: &Image, shown: &str) -> Result<Tensor> {
    let wrong = |text: String| Error::invalid_input(format!("`{shown}`: {text}"));
    let picture = decode(bytes).map_err(wrong)?;
    if let Some(size) = about.size {
        let (width, height) = (picture.width(), picture.height());
        if u64::from(width) * u64::from(size.height) != u64::from(height) * u64::from(size.width) {
            return Err(wrong(format!(
                "the picture is {width} x {height}, `{}` says {} x {} and not how one becomes the other",
                by.from, size.width, size.height
            ))
            .hint(format!("cut or pad it as {} does, then give the picture or a .npy", by.writer)));
        }
    }
    let datatype = by.inputs.first().and_then(|i| i.datatype).unwrap_or(Datatype::Fp32);
    to_tensor(picture, about, datatype).map_err(|e| wrong(e.message))
}

fn decode(bytes: &[u8]) -> std::result::Result<DynamicImage, String> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| e.to_string())?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(LARGEST_SIDE);
    limits.max_image_height = Some(LARGEST_SIDE);
    limits.max_alloc = Some(MOST_BYTES);
    reader.limits(limits);
    reader.decode().map_err(|e| format!("the picture cannot be decoded: {e}"))
}

fn to_tensor(picture: DynamicImage, about: &Image, datatype: Datatype) -> Result<Tensor> {
    let picture = match about.size {
        Some(size) if (picture.width(), picture.height()) != (size.width, size.height) => {
            picture.resize_exact(size.width, size.height, FilterType::Triangle)
        }
        _ => picture,
    };
    let (height, width) = (i64::from(picture.height()), i64::from(picture.width()));
    let (pixels, channels) = match about.color {
        Color::L => (picture.into_luma8().into_raw(), 1usize),
        Color::RGB => (picture.into_rgb8().into_raw(), 3),
    };
    let (planes, shape) = match about.layout {
        Layout::NHWC => (1, vec![1, height, width, channels as i64]),
        Layout::NCHW => (channels, vec![1, channels as i64, height, width]),
    };
    let factor = about.rescale_factor.unwrap_or(1.0);
    match datatype {
        Datatype::Uint8 if about.rescale_factor.is_none() => {
            Tensor::from_elements(shape, laid_out(&pixels, planes, |p| p))
        }
        Datatype::Fp16 => {
            Tensor::from_elements(shape, laid_out(&pixels, planes, |p| half::f16::from_f64(f64::from(p) * factor)))
        }
        Datatype::Bf16 => {
            Tensor::from_elements(shape, laid_out(&pixels, planes, |p| half::bf16::from_f64(f64::from(p) * factor)))
        }
        Datatype::Fp32 => Tensor::from_elements(shape, laid_out(&pixels, planes, |p| (f64::from(p) * factor) as f32)),
        Datatype::Fp64 => Tensor::from_elements(shape, laid_out(&pixels, planes, |p| f64::from(p) * factor)),
        other => Err(Error::invalid_input(format!("a picture cannot become {other}"))),
    }
}

/// Pixels, converted, in so many planes. A table has every value that a byte can become: a folder of pictures spends more
/// time here than in their unpacking otherwise.
fn laid_out<T: Copy>(pixels: &[u8], planes: usize, convert: impl Fn(u8) -> T) -> Vec<T> {
    let table: [T; 256] = std::array::from_fn(|p| convert(p as u8));
    let value = |p: u8| table[usize::from(p)];
    if planes != 3 {
        return pixels.iter().map(|&p| value(p)).collect();
    }
    let size = pixels.len() / 3;
    let mut out = vec![value(0); size * 3];
    let (red, rest) = out.split_at_mut(size);
    let (green, blue) = rest.split_at_mut(size);
    for (((pixel, red), green), blue) in pixels.chunks_exact(3).zip(red).zip(green).zip(blue) {
        (*red, *green, *blue) = (value(pixel[0]), value(pixel[1]), value(pixel[2]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(color: Color, layout: Layout) -> Image {
        Image { input: "x".into(), color, layout, size: None, rescale_factor: Some(1.0 / 255.0) }
    }

    #[test]
    fn channels_lie_as_the_layout_says() {
        let picture = DynamicImage::ImageRgb8(image::RgbImage::from_raw(2, 1, vec![255, 0, 51, 0, 102, 255]).unwrap());
        let t = to_tensor(picture.clone(), &about(Color::RGB, Layout::NCHW), Datatype::Fp32).unwrap();
        assert_eq!(t.shape(), [1, 3, 1, 2]);
        assert_eq!(t.to_vec::<f32>().unwrap(), [1.0, 0.0, 0.0, 0.4, 0.2, 1.0]);
        let t = to_tensor(picture, &about(Color::RGB, Layout::NHWC), Datatype::Fp32).unwrap();
        assert_eq!(t.to_vec::<f32>().unwrap(), [1.0, 0.0, 0.2, 0.0, 0.4, 1.0]);
    }

    #[test]
    fn a_picture_without_a_contract_says_what_is_missing() {
        let e = read(b"\x89PNG\r\n\x1a\n", None, "x", "7.png").unwrap_err();
        assert!(e.message.contains("no contract") && e.hint.is_some());
    }
}
