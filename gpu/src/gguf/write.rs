//! Writing GGUF version 3: pairs, tensor descriptions, aligned data.
//!
//! For the generated model and for tests that need a file of their own. It lays out what it is given and
//! checks nothing, since what a file may hold is the reader's to say; tests rely on that to build bad ones.

use super::kind::TensorKind;

/// The default of the format, so that no `general.alignment` has to be written.
const ALIGNMENT: usize = 32;

/// A metadata value; the file's type ids beside the types they write.
#[derive(Clone, Debug)]
pub enum Meta {
    U32(u32),
    F32(f32),
    Bool(bool),
    Str(String),
    Strs(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

#[derive(Clone, Debug)]
struct Pending {
    name: String,
    kind: TensorKind,
    ne: Vec<u64>,
    bytes: Vec<u8>,
}

/// A file in the making.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    pairs: Vec<(String, Meta)>,
    tensors: Vec<Pending>,
}

impl Writer {
    /// Adds a pair; the file keeps the order.
    pub fn pair(&mut self, key: impl Into<String>, value: Meta) {
        self.pairs.push((key.into(), value));
    }

    /// Adds a tensor; `ne[0]` is the row length, `bytes` are rows one after another.
    pub fn tensor(&mut self, name: impl Into<String>, kind: TensorKind, ne: &[u64], bytes: Vec<u8>) {
        self.tensors.push(Pending { name: name.into(), kind, ne: ne.to_vec(), bytes });
    }

    /// The file.
    pub fn finish(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.pairs.len() as u64).to_le_bytes());
        for (key, value) in &self.pairs {
            string(&mut out, key);
            value.write(&mut out);
        }
        let mut offset = 0;
        for Pending { name, kind, ne, bytes } in &self.tensors {
            string(&mut out, name);
            out.extend((ne.len() as u32).to_le_bytes());
            ne.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(kind.id().to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset += bytes.len().next_multiple_of(ALIGNMENT);
        }
        for Pending { bytes, .. } in &self.tensors {
            out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
            out.extend(bytes);
        }
        out
    }
}

impl Meta {
    fn write(&self, out: &mut Vec<u8>) {
        const ARRAY: u32 = 9;
        let id = |out: &mut Vec<u8>, id: u32| out.extend(id.to_le_bytes());
        match self {
            Meta::U32(n) => {
                id(out, 4);
                out.extend(n.to_le_bytes());
            }
            Meta::F32(x) => {
                id(out, 6);
                out.extend(x.to_le_bytes());
            }
            Meta::Bool(b) => {
                id(out, 7);
                out.push((*b).into());
            }
            Meta::Str(s) => {
                id(out, 8);
                string(out, s);
            }
            Meta::Strs(list) => {
                id(out, ARRAY);
                id(out, 8);
                out.extend((list.len() as u64).to_le_bytes());
                list.iter().for_each(|s| string(out, s));
            }
            Meta::I32s(list) => {
                id(out, ARRAY);
                id(out, 5);
                out.extend((list.len() as u64).to_le_bytes());
                list.iter().for_each(|n| out.extend(n.to_le_bytes()));
            }
            Meta::F32s(list) => {
                id(out, ARRAY);
                id(out, 6);
                out.extend((list.len() as u64).to_le_bytes());
                list.iter().for_each(|x| out.extend(x.to_le_bytes()));
            }
        }
    }
}

fn string(out: &mut Vec<u8>, s: &str) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}
