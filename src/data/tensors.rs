//! Safetensors files: finds tensors by their name.

use super::header::Type;
use super::positioned::{Header, PositionedFile};
use crate::io::MAX_SAFETENSORS_HEADER;
use crate::{Error, Result};
use safetensors::tensor::Metadata;
use std::path::Path;
use std::sync::Arc;

/// An open safetensors file with its parsed header.
pub(super) struct Tensors {
    pub label: String,
    file: Arc<PositionedFile>,
    /// Position of the first tensor in bytes.
    start: u64,
    pub metadata: Metadata,
}

impl Tensors {
    pub fn open(path: &Path, file: PositionedFile) -> Result<Self> {
        let label = path.display().to_string();
        let fault = |expected: &str, found: String| {
            Error::data(&label, expected, found, "write the file again, for example with safetensors.numpy")
        };
        if file.bytes < 8 {
            return Err(fault("a safetensors header", format!("a file of {} bytes", file.bytes)));
        }
        let mut length = [0; 8];
        file.read(|| label.clone(), &mut length, 0)?;
        let length = u64::from_le_bytes(length);
        let most = MAX_SAFETENSORS_HEADER.min(file.bytes - 8);
        if length > most {
            return Err(fault(&format!("a header of at most {most} bytes"), length.to_string()));
        }
        let mut header = vec![0; length as usize];
        file.read(|| label.clone(), &mut header, 8)?;
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|e| fault("a safetensors header", format!("one that cannot be read ({e})")))?;
        let start = 8 + length;
        file.check_length(&label, start.saturating_add(metadata.data_len() as u64))?;
        Ok(Self { file: Arc::new(file), start, metadata, label })
    }

    pub fn header(&self, name: &str, label: String) -> Result<Header> {
        let Some(info) = self.metadata.info(name) else {
            let advice =
                "add it: a dataset holds images, texts, text_to_image, split_train, split_val, split_test";
            return Err(Error::data(label, "this tensor", "none of this name", advice));
        };
        Ok(Header {
            label,
            file: Arc::clone(&self.file),
            start: self.start + info.data_offsets.0 as u64,
            dtype: Type::of_safetensors(&format!("{:?}", info.dtype)),
            shape: info.shape.iter().map(|&n| n as u64).collect(),
            alone: false,
        })
    }
}
