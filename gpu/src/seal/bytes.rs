//! Numbers as the bytes that they are in memory, to be hashed and to be wiped.
#![allow(unsafe_code)]

use crate::kernel::arena::Plain;

pub(crate) fn of<T: Plain>(numbers: &[T]) -> &[u8] {
    // SAFETY: `Plain` has no padding, so each of these bytes is initialised; they are borrowed as the numbers are.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), size_of_val(numbers)) }
}

pub(crate) fn of_mut<T: Plain>(numbers: &mut [T]) -> &mut [u8] {
    // SAFETY: as in `of`; who writes here writes zeros, or what a test means.
    unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), size_of_val(numbers)) }
}
