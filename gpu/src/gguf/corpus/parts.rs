//! A file taken apart, so that a case can change one number of it and leave all others as they are.

use super::super::header;

/// GGUF's value type ids.
pub(super) const U32: u32 = 4;
pub(super) const I32: u32 = 5;
pub(super) const F32: u32 = 6;
pub(super) const STR: u32 = 8;
pub(super) const ARRAY: u32 = 9;

#[derive(Clone)]
pub(super) struct Tensor {
    pub(super) name: Vec<u8>,
    /// What the file says; `ne` may disagree.
    pub(super) dims: u32,
    pub(super) ne: Vec<u64>,
    pub(super) kind: u32,
    pub(super) offset: u64,
}

pub(super) struct Parts {
    pub(super) magic: [u8; 4],
    pub(super) version: u32,
    /// What the file says beyond what it has.
    pub(super) more_tensors: u64,
    pub(super) more_pairs: u64,
    /// Keys, and values with their type ids.
    pub(super) pairs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) tensors: Vec<Tensor>,
    pub(super) data: Vec<u8>,
    /// The file ends after this many bytes.
    pub(super) cut: usize,
}

impl Parts {
    pub(super) fn of(bytes: &[u8]) -> Parts {
        let head = header::read(bytes).unwrap();
        let mut pairs: Vec<_> = head.pairs.iter().collect();
        pairs.sort_by_key(|pair| pair.offset);
        // A name's length stands in the eight bytes before it.
        let first_tensor = head.tensors[0].name.start - 8;
        let ends: Vec<usize> = pairs[1..].iter().map(|pair| pair.key.start - 8).chain([first_tensor]).collect();
        let value = |(pair, end): (&&header::Pair, &usize)| {
            (bytes[pair.key.clone()].to_vec(), bytes[pair.offset as usize..*end].to_vec())
        };
        let tensor = |tensor: &header::Description| Tensor {
            name: bytes[tensor.name.clone()].to_vec(),
            dims: 2,
            ne: tensor.ne[..2].to_vec(),
            kind: tensor.kind.id(),
            offset: tensor.relative,
        };
        Parts {
            magic: *b"GGUF",
            version: 3,
            more_tensors: 0,
            more_pairs: 0,
            pairs: pairs.iter().zip(&ends).map(value).collect(),
            tensors: head.tensors.iter().map(tensor).collect(),
            data: bytes[(head.end as usize).next_multiple_of(32)..].to_vec(),
            cut: usize::MAX,
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut out = self.described();
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(&self.data);
        out.truncate(self.cut);
        out
    }

    /// The head as far as it says anything: what follows fills it up.
    pub(super) fn described(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).wrapping_add(self.more_tensors).to_le_bytes());
        out.extend((self.pairs.len() as u64).wrapping_add(self.more_pairs).to_le_bytes());
        for (key, value) in &self.pairs {
            out.extend([&(key.len() as u64).to_le_bytes()[..], key, value].concat());
        }
        for Tensor { name, dims, ne, kind, offset } in &self.tensors {
            out.extend([&(name.len() as u64).to_le_bytes()[..], name, &dims.to_le_bytes()].concat());
            ne.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
        }
        out
    }

    /// Where the head ends.
    pub(super) fn head(&self) -> usize {
        self.bytes().len().min(self.cut) - self.data.len()
    }

    pub(super) fn set(&mut self, key: &str, value: Vec<u8>) {
        match self.pairs.iter_mut().find(|(known, _)| known == key.as_bytes()) {
            Some(pair) => pair.1 = value,
            None => self.pairs.push((key.as_bytes().to_vec(), value)),
        }
    }

    pub(super) fn remove(&mut self, key: &str) {
        let before = self.pairs.len();
        self.pairs.retain(|(known, _)| known != key.as_bytes());
        assert!(self.pairs.len() < before, "no key {key}");
    }

    pub(super) fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name.as_bytes()).expect(name)
    }

    /// Makes the tokenizer one of SentencePiece's kind, with the tokens it has.
    pub(super) fn sentencepiece(&mut self) {
        self.set("tokenizer.ggml.model", text("llama"));
        self.set("tokenizer.ggml.scores", floats(&[0.0; 270]));
    }
}

pub(super) fn int(n: u32) -> Vec<u8> {
    [U32.to_le_bytes(), n.to_le_bytes()].concat()
}

pub(super) fn float(x: f32) -> Vec<u8> {
    [F32.to_le_bytes(), x.to_le_bytes()].concat()
}

fn string(s: &[u8]) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes()[..], s].concat()
}

/// A string whose bytes need not be text.
pub(super) fn raw(s: &[u8]) -> Vec<u8> {
    [&STR.to_le_bytes()[..], &string(s)].concat()
}

pub(super) fn text(s: &str) -> Vec<u8> {
    raw(s.as_bytes())
}

/// An array that says it has `count` elements of a type.
pub(super) fn array(of: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    [&ARRAY.to_le_bytes()[..], &of.to_le_bytes(), &count.to_le_bytes(), elements].concat()
}

pub(super) fn texts(list: &[&str]) -> Vec<u8> {
    let elements: Vec<u8> = list.iter().flat_map(|s| string(s.as_bytes())).collect();
    array(STR, list.len() as u64, &elements)
}

pub(super) fn ints(list: &[i32]) -> Vec<u8> {
    array(I32, list.len() as u64, &list.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>())
}

pub(super) fn floats(list: &[f32]) -> Vec<u8> {
    array(F32, list.len() as u64, &list.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
}
