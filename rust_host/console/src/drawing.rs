//! A picture among the inputs → a few lines of half blocks, for a terminal or for `--draw`.

use rust_host_engine::{
    Tensor,
    contract::{Image, Layout},
};

/// More pictures than these are not drawn.
const MOST: usize = 16;
/// Wider or higher pictures are drawn with fewer points.
const WIDEST: usize = 32;

/// One drawing for each picture of the batch, each a list of lines of equal width.
pub fn draw(tensor: &Tensor, about: &Image) -> Vec<Vec<String>> {
    let sizes: Vec<usize> = tensor.shape().iter().map(|&n| usize::try_from(n).unwrap_or(0)).collect();
    let &[batch, a, b, c] = sizes.as_slice() else { return Vec::new() };
    let (channels, height, width) = match about.layout {
        Layout::NCHW => (a, b, c),
        Layout::NHWC => (c, a, b),
    };
    let size = channels * height * width;
    if size == 0 {
        return Vec::new();
    }
    let values = tensor.to_f64_vec();
    let grey = |picture: &[f64], y: usize, x: usize| -> f64 {
        let at = |channel: usize| match about.layout {
            Layout::NCHW => (channel * height + y) * width + x,
            Layout::NHWC => (y * width + x) * channels + channel,
        };
        (0..channels).map(|channel| picture[at(channel)]).sum()
    };
    let step = height.max(width).div_ceil(WIDEST);
    let one = |picture: &[f64]| {
        let points = |y: usize| (0..width).step_by(step).map(move |x| grey(picture, y, x)).collect::<Vec<f64>>();
        let rows: Vec<Vec<f64>> = (0..height).step_by(step).map(points).collect();
        half_blocks(&rows)
    };
    values.chunks_exact(size).take(batch.min(MOST)).map(one).collect()
}

/// Two rows a line; a point is ink where it is brighter than the middle between the darkest and the brightest.
fn half_blocks(rows: &[Vec<f64>]) -> Vec<String> {
    let all = || rows.iter().flatten().copied().filter(|v| v.is_finite());
    let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
    let ink = |row: Option<&Vec<f64>>, x: usize| row.is_some_and(|r| high > low && r[x] > (low + high) / 2.0);
    let line = |pair: &[Vec<f64>]| {
        let points = 0..pair[0].len();
        let block = |x| match (ink(pair.first(), x), ink(pair.get(1), x)) {
            (true, true) => '█',
            (true, false) => '▀',
            (false, true) => '▄',
            (false, false) => ' ',
        };
        points.map(block).collect()
    };
    rows.chunks(2).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rust_host_engine::contract::Color;

    #[test]
    fn bright_points_are_ink_in_both_layouts() {
        let about = |layout| Image { input: "x".into(), color: Color::L, layout, size: None, rescale_factor: None };
        let pixels = vec![1f32, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0];
        let nchw = Tensor::from_elements(vec![1, 1, 3, 3], pixels.clone()).unwrap();
        assert_eq!(draw(&nchw, &about(Layout::NCHW)), [["▀ █", " ▀ "]]);
        let nhwc = Tensor::from_elements(vec![1, 3, 3, 1], pixels).unwrap();
        assert_eq!(draw(&nhwc, &about(Layout::NHWC)), [["▀ █", " ▀ "]]);
        let blank = Tensor::from_elements(vec![20, 1, 64, 2], vec![0f32; 2560]).unwrap();
        let drawn = draw(&blank, &about(Layout::NCHW));
        assert_eq!((drawn.len(), drawn[0].len(), drawn[0][0].as_str()), (16, 16, " "));
    }
}
