//! Frames of the spool: marker, length, CRC, body. Pure functions over bytes.

use super::Line;

/// What a spool begins with; the last byte is the format.
pub(super) const MAGIC: &[u8; 8] = b"ORSPOOL4";
const MARKER: &[u8; 4] = b"ORSL";
/// Marker, length and CRC.
pub(super) const HEAD: usize = 12;
/// Bodies of requests and answers are far smaller; a length beyond it is a damaged length.
pub(super) const LINE_MAX: usize = 256 << 20;

/// Appends the frame of `line`; leaves `out` as it was, and says the length, where that exceeds the format.
#[expect(clippy::expect_used, reason = "postcard fails on a full buffer only, and a Vec grows")]
pub(super) fn encode(out: &mut Vec<u8>, line: &Line) -> Result<usize, usize> {
    let at = out.len();
    out.extend_from_slice(&[0; HEAD]);
    *out = postcard::to_extend(line, std::mem::take(out)).expect("plain data serialises");
    let len = out.len() - at - HEAD;
    if len > LINE_MAX {
        out.truncate(at);
        return Err(len);
    }
    let (head, body) = out[at..].split_at_mut(HEAD);
    head[..4].copy_from_slice(MARKER);
    head[4..8].copy_from_slice(&(len as u32).to_le_bytes());
    let crc = crc(&head[..8], body);
    head[8..].copy_from_slice(&crc.to_le_bytes());
    Ok(HEAD + len)
}

/// The body of a valid frame that begins `bytes`. Nothing is allocated by its length.
pub(super) fn body(bytes: &[u8]) -> Option<&[u8]> {
    let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
    let len = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
    if &head[..4] != MARKER || len > LINE_MAX {
        return None;
    }
    let body = rest.get(..len)?;
    let stated = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
    (crc(&head[..8], body) == stated).then_some(body)
}

/// Where the next valid frame begins at or after the start of `bytes`. Candidates cost what they hold, and
/// a hostile file could hold many: beyond a bound there is none.
pub(super) fn next(bytes: &[u8]) -> Option<usize> {
    let mut budget = 4 * bytes.len() + (1 << 20);
    for (at, _) in bytes.windows(MARKER.len()).enumerate().filter(|(_, window)| window == MARKER) {
        if body(&bytes[at..]).is_some() {
            return Some(at);
        }
        let claimed = bytes.get(at + 4..at + 8).map_or(0, |len| len.iter().rev().fold(0, |n, b| n << 8 | *b as usize));
        if claimed <= bytes.len() - at {
            budget = budget.checked_sub(claimed)?;
        }
    }
    None
}

fn crc(head: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(body);
    hasher.finalize()
}
