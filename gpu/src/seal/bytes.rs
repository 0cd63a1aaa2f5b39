//! Numbers as the bytes that they are in memory, to be hashed and to be wiped.
#![allow(unsafe_code)]

use crate::kernel::packed::Line;

/// Numbers that are nothing but their bytes.
///
/// # Safety
/// The type has no padding, and all zeros is a value of it.
pub(crate) unsafe trait Plain {}

// SAFETY: a number.
unsafe impl Plain for u8 {}
// SAFETY: a number.
unsafe impl Plain for u16 {}
// SAFETY: a number.
unsafe impl Plain for f32 {}
// SAFETY: sixteen u32 in a cache line.
unsafe impl Plain for Line {}
// SAFETY: one after the other, without anything between.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

pub(crate) fn of<T: Plain>(numbers: &[T]) -> &[u8] {
    // SAFETY: `Plain` has no padding, so each of these bytes is initialised; they are borrowed as the numbers are.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), size_of_val(numbers)) }
}

pub(crate) fn of_mut<T: Plain>(numbers: &mut [T]) -> &mut [u8] {
    // SAFETY: as in `of`; who writes here writes zeros, or what a test means.
    unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), size_of_val(numbers)) }
}
