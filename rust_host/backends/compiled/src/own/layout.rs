//! Where the elements of a tensor lie: the sizes and strides (in elements) that a copy has, and a walk over all of them.

use std::cmp::Ordering;

/// Row-major and without gaps.
pub(super) fn is_contiguous(sizes: &[i64], strides: &[i64]) -> bool {
    let mut expected = 1;
    sizes.iter().zip(strides).rev().all(|(&size, &stride)| {
        let fits = size == 1 || stride == expected;
        expected *= size;
        fits
    }) || sizes.contains(&0)
}

/// Without gaps and with one place for each element, in whatever order of the axes.
pub(super) fn is_dense(sizes: &[i64], strides: &[i64]) -> bool {
    let mut axes: Vec<(i64, i64)> =
        strides.iter().copied().zip(sizes.iter().copied()).filter(|(_, size)| *size != 1).collect();
    axes.sort_unstable();
    let mut expected = 1;
    is_contiguous(sizes, strides)
        || axes.iter().all(|&(stride, size)| {
            let fits = stride == expected;
            expected *= size;
            fits
        })
}

/// The strides of a copy, as torch gives them to `clone`: the tensor's own if it is dense; otherwise the same axes lie next to one
/// another, where that can be told, without the gaps.
pub(super) fn of_copy(sizes: &[i64], strides: &[i64]) -> Vec<i64> {
    if is_dense(sizes, strides) {
        return strides.to_vec();
    }
    let mut made = vec![0; strides.len()];
    let mut next = 1i64;
    for axis in innermost_first(sizes, strides) {
        made[axis] = next;
        next = next.saturating_mul(sizes[axis].max(1));
    }
    made
}

/// Sorted by insertion, because an axis of stride 0 can be told from no other one and must not move by itself: the order is torch's.
fn innermost_first(sizes: &[i64], strides: &[i64]) -> Vec<usize> {
    let told = |a: usize, b: usize| match (strides[a], strides[b]) {
        (0, _) | (_, 0) => Ordering::Equal,
        (inner, outer) if inner != outer => inner.cmp(&outer),
        _ if sizes[a] > sizes[b] => Ordering::Greater,
        _ => Ordering::Equal,
    };
    let mut order: Vec<usize> = (0..sizes.len()).rev().collect();
    for last in 1..order.len() {
        let mut at = last;
        for before in (0..last).rev() {
            match told(order[before], order[at]) {
                Ordering::Greater => {
                    order.swap(before, at);
                    at = before;
                }
                Ordering::Equal => {}
                Ordering::Less => break,
            }
        }
    }
    order
}

/// Calls `visit` for each element with its distances from the first one, by the one and by the other strides.
pub(super) fn each(sizes: &[i64], one: &[i64], other: &[i64], visit: &mut impl FnMut(i64, i64)) {
    fn walk(axes: &[(i64, i64, i64)], from: (i64, i64), visit: &mut impl FnMut(i64, i64)) {
        let Some(((size, one, other), inner)) = axes.split_first() else { return visit(from.0, from.1) };
        for n in 0..*size {
            walk(inner, (from.0 + n * one, from.1 + n * other), visit);
        }
    }
    let axes: Vec<_> = sizes.iter().zip(one).zip(other).map(|((&size, &one), &other)| (size, one, other)).collect();
    walk(&axes, (0, 0), visit);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_keeps_a_dense_layout_and_closes_gaps_in_the_order_of_the_axes() {
        for (sizes, strides, copy) in [
            (&[2, 3][..], &[3, 1][..], &[3, 1][..]),
            (&[2, 3], &[1, 2], &[1, 2]),          // dense, the other way round
            (&[2, 3], &[1, 4], &[1, 2]),          // a gap
            (&[2, 3], &[0, 1], &[3, 1]),          // repeated
            (&[2, 1, 3], &[3, 9, 1], &[3, 9, 1]), // the stride of a single element says nothing
            (&[0, 3], &[7, 7], &[7, 7]),
            (&[], &[], &[]),
        ] {
            assert_eq!(of_copy(sizes, strides), copy, "{sizes:?} {strides:?}");
        }
    }

    #[test]
    fn every_element_is_visited_once_in_row_major_order() {
        let mut seen = Vec::new();
        each(&[2, 3], &[10, 1], &[1, 2], &mut |one, other| seen.push((one, other)));
        assert_eq!(seen, [(0, 0), (1, 2), (2, 4), (10, 1), (11, 3), (12, 5)]);
        each(&[2, 0], &[1, 1], &[1, 1], &mut |_, _| panic!("there is none"));
    }
}
