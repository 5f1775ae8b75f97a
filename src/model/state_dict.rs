//! Two linear layers of a PyTorch state dict, saved as safetensors.

use super::{Head, Layout, Side};
use crate::{Error, Result};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::fmt::Display;
use std::path::Path;

/// Names of an image and of a text encoder.
const SIDES: [&[&str]; 2] = [
    &["image", "img", "visual", "vision", "image_encoder", "img_enc"],
    &["text", "txt", "caption", "text_encoder", "txt_enc"],
];
/// Names of the last linear layer of an encoder.
const LAYERS: [&str; 5] = ["fc", "linear", "proj", "projection", "head"];
/// Parameters of CLIP that are stored as `[in, out]`.
const TRANSPOSED: [&str; 2] = ["visual.proj", "text_projection"];
/// What wrappers of modules put in front of all names.
const WRAPPERS: [&str; 2] = ["module.", "model."];

const EXPECTED: &str =
    "a head of wgoal, or two linear layers named as in image.weight [D, P] and text.weight [D, Q]";
const ADVICE: &str = "save them with safetensors.torch.save_file({'image.weight': image.weight, 'image.bias': \
                      image.bias, 'text.weight': text.weight, 'text.bias': text.bias}, 'head.safetensors')";

/// The file that tensors come from.
pub(crate) struct StateDict<'a> {
    path: &'a Path,
    /// Name and values of each tensor, by name.
    tensors: Vec<(String, TensorView<'a>)>,
}

/// One linear layer, row-major.
struct Linear {
    /// `[embed, dim]`
    weight: Vec<f32>,
    bias: Vec<f32>,
    embed: usize,
    dim: usize,
}

/// What a name means: the side, and the part of its layer.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Weight,
    Transposed,
    Bias,
}

impl<'a> StateDict<'a> {
    pub fn new(path: &'a Path, tensors: &SafeTensors<'a>) -> Self {
        let mut tensors = tensors.tensors();
        tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
        Self { path, tensors }
    }

    fn fault(&self, expected: impl Display, found: impl Display) -> Error {
        Error::checkpoint(self.path.display(), expected, found, ADVICE)
    }

    /// The head that the two layers make, and the names of the tensors that it does not use.
    ///
    /// # Errors
    /// Layers that are missing, named twice, or of shapes that do not fit. The message lists what was found.
    pub fn head(&self) -> Result<(Head, Vec<String>)> {
        let [image, text] = [self.layer(Side::Image)?, self.layer(Side::Text)?];
        if image.embed != text.embed {
            let found = format!("{} for images and {} for texts", image.embed, text.embed);
            return Err(self.fault("layers with equally many outputs D", found));
        }
        let layout = Layout::linear([image.dim, text.dim], image.embed);
        if layout.largest() >= 1 << 31 {
            return Err(self.fault("layers of fewer than 2^31 weights", self.shapes(|_| true)));
        }
        let mut head =
            Head { layout, values: vec![0.0; layout.len()], standardize: None, others: Vec::new() };
        head.set_side(Side::Image, &image.weight, &image.bias)?;
        head.set_side(Side::Text, &text.weight, &text.bias)?;
        let unused = self.tensors.iter().filter(|(name, _)| meaning(name).is_none());
        Ok((head, unused.map(|(name, _)| name.clone()).collect()))
    }

    /// The linear layer of a side.
    fn layer(&self, side: Side) -> Result<Linear> {
        let of = |part: Part| -> Vec<&(String, TensorView)> {
            self.tensors.iter().filter(|(name, _)| meaning(name) == Some((side, part))).collect()
        };
        let weights: Vec<_> = [Part::Weight, Part::Transposed].into_iter().flat_map(of).collect();
        let &[(name, weight)] = &weights[..] else {
            let what = if side == Side::Image { "images" } else { "texts" };
            return Err(match weights.is_empty() {
                true => self.fault(EXPECTED, self.shapes(|_| true)),
                false => {
                    let found = self.shapes(|name| weights.iter().any(|(other, _)| other == name));
                    self.fault(format!("one layer for {what}"), found)
                }
            });
        };
        let &[rows, cols] = weight.shape() else {
            return Err(self.fault(format!("tensor {name} of two dimensions"), self.shapes(|n| n == name)));
        };
        if rows == 0 || cols == 0 {
            return Err(self.fault(format!("weights in tensor {name}"), self.shapes(|n| n == name)));
        }
        let values = self.values(name, weight)?;
        let transposed = meaning(name).is_some_and(|(_, part)| part == Part::Transposed);
        let (weight, embed, dim) = match transposed {
            true => {
                let columns = (0..cols).flat_map(|j| (0..rows).map(move |i| i * cols + j));
                (columns.map(|at| values[at]).collect(), cols, rows)
            }
            false => (values, rows, cols),
        };
        let bias = match &of(Part::Bias)[..] {
            [] => vec![0.0; embed],
            [(name, bias)] if bias.shape() == [embed] => self.values(name, bias)?,
            other => {
                let found = self.shapes(|name| other.iter().any(|(bias, _)| bias == name));
                return Err(self.fault(format!("at most one bias of shape [{embed}] beside {name}"), found));
            }
        };
        Ok(Linear { weight, bias, embed, dim })
    }

    /// Names and shapes of some tensors, for a message.
    fn shapes(&self, which: impl Fn(&str) -> bool) -> String {
        const SHOWN: usize = 8;
        let some = self.tensors.iter().filter(|(name, _)| which(name));
        let mut names: Vec<_> = some.map(|(name, tensor)| format!("{name} {:?}", tensor.shape())).collect();
        let more = names.len().saturating_sub(SHOWN);
        names.truncate(SHOWN);
        match (names.is_empty(), more) {
            (true, _) => "no tensors".into(),
            (false, 0) => names.join(", "),
            (false, more) => format!("{} and {more} more", names.join(", ")),
        }
    }

    /// The values of a tensor of floating-point numbers.
    fn values(&self, name: &str, tensor: &TensorView) -> Result<Vec<f32>> {
        let data = tensor.data();
        let values: Vec<f32> = match tensor.dtype() {
            Dtype::F32 => bytemuck::pod_collect_to_vec(data),
            Dtype::F64 => {
                let wide: Vec<f64> = bytemuck::pod_collect_to_vec(data);
                wide.into_iter().map(|x| x as f32).collect()
            }
            Dtype::F16 => {
                data.chunks_exact(2).map(|half| f16::from_le_bytes([half[0], half[1]]).to_f32()).collect()
            }
            Dtype::BF16 => {
                data.chunks_exact(2).map(|half| bf16::from_le_bytes([half[0], half[1]]).to_f32()).collect()
            }
            other => {
                let expected = format!("tensor {name} of F32, F16, BF16 or F64");
                return Err(self.fault(expected, format!("{other:?}")));
            }
        };
        match values.iter().position(|x| !x.is_finite()) {
            None => Ok(values),
            Some(at) => {
                let found = format!("{} at {at}", values[at]);
                Err(self.fault(format!("finite numbers in tensor {name}"), found))
            }
        }
    }
}

/// What a tensor's name means; `None` if nothing.
fn meaning(name: &str) -> Option<(Side, Part)> {
    let mut name = name;
    while let Some(rest) = WRAPPERS.iter().find_map(|wrapper| name.strip_prefix(wrapper)) {
        name = rest;
    }
    if let Some(side) = TRANSPOSED.iter().position(|known| *known == name) {
        return Some(([Side::Image, Side::Text][side], Part::Transposed));
    }
    let (layer, part) = match name.rsplit_once('.')? {
        (layer, "weight") => (layer, Part::Weight),
        (layer, "bias") => (layer, Part::Bias),
        _ => return None,
    };
    let is_side = |side: &&str| match layer.strip_prefix(*side) {
        Some("") => true,
        Some(rest) => rest.strip_prefix(['.', '_']).is_some_and(|rest| LAYERS.contains(&rest)),
        None => false,
    };
    let side = SIDES.iter().position(|names| names.iter().any(is_side))?;
    Some(([Side::Image, Side::Text][side], part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn read(tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) -> Result<(Head, Vec<String>)> {
        let views: BTreeMap<_, _> = tensors
            .iter()
            .map(|(name, dtype, shape, data)| (*name, TensorView::new(*dtype, shape.to_vec(), data).unwrap()))
            .collect();
        let bytes = safetensors::serialize(views, None).unwrap();
        StateDict::new(Path::new("x.safetensors"), &SafeTensors::deserialize(&bytes).unwrap()).head()
    }

    fn f32s(values: &[f32]) -> Vec<u8> {
        bytemuck::cast_slice(values).to_vec()
    }

    #[test]
    fn layers_are_found_by_the_names_of_other_projects() {
        let weight = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let (whole, turned) = (f32s(&weight), f32s(&[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]));
        let halves = weight.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect::<Vec<u8>>();
        let brains = weight.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect::<Vec<u8>>();
        let wide = bytemuck::cast_slice(&weight.map(f64::from)).to_vec();
        let cases: [(&str, &str, Dtype, &Vec<u8>); 7] = [
            ("image.weight", "text.weight", Dtype::F32, &whole),
            ("img_enc.fc.weight", "txt_enc.fc.weight", Dtype::F16, &halves),
            ("vision_proj.weight", "text_proj.weight", Dtype::BF16, &brains),
            ("visual_projection.weight", "text_projection.weight", Dtype::F64, &wide),
            ("module.model.image_encoder.head.weight", "module.model.txt.linear.weight", Dtype::F32, &whole),
            ("visual.proj", "text.weight", Dtype::F32, &whole),
            ("image.weight", "text_projection", Dtype::F32, &whole),
        ];
        for (image, text, dtype, data) in cases {
            let of = |name: &'static str| match name {
                "visual.proj" | "text_projection" => (name, dtype, &[3usize, 2][..], turned.clone()),
                _ => (name, dtype, &[2usize, 3][..], data.clone()),
            };
            let other = ("logit_scale", Dtype::F32, &[][..], f32s(&[1.0]));
            let bias = ("image.bias", Dtype::F32, &[2usize][..], f32s(&[0.5, 0.25]));
            let (head, unused) = read(&[of(image), of(text), bias, other]).unwrap();
            assert_eq!(head.side(Side::Image), (weight.to_vec(), vec![0.5, 0.25]), "{image}");
            assert_eq!(head.side(Side::Text), (weight.to_vec(), vec![0.0; 2]), "{text}");
            assert_eq!(unused, ["logit_scale"]);
        }
    }

    #[test]
    fn an_error_lists_what_was_found() {
        let tensor = |name, shape| (name, Dtype::F32, shape, f32s(&[1.0; 6]));
        let fault = |tensors: &[_]| read(tensors).unwrap_err().to_string();
        let (image, text) = (tensor("image.weight", &[2usize, 3][..]), tensor("text.weight", &[2, 3][..]));
        let found = fault(&[image.clone(), tensor("decoder.weight", &[6])]);
        assert!(found.contains("found decoder.weight [6], image.weight [2, 3]; save them"), "{found}");
        let found = fault(&[image.clone(), text.clone(), tensor("img.fc.weight", &[2, 3])]);
        let expected = "expected one layer for images, found image.weight [2, 3], img.fc.weight [2, 3];";
        assert!(found.contains(expected), "{found}");
        let found = fault(&[image.clone(), tensor("text.weight", &[3, 2])]);
        assert!(found.contains("equally many outputs D, found 2 for images and 3 for texts"), "{found}");
        let found = fault(&[image.clone(), text.clone(), tensor("text.bias", &[6])]);
        assert!(found.contains("one bias of shape [2] beside text.weight, found text.bias [6]"), "{found}");
        let found = fault(&[tensor("image.weight", &[6]), text]);
        assert!(found.contains("image.weight of two dimensions, found image.weight [6]"), "{found}");
        let nan = ("text.weight", Dtype::F32, &[2usize, 3][..], f32s(&[f32::NAN; 6]));
        assert!(fault(&[image, nan]).contains("finite numbers in tensor text.weight, found NaN at 0"));
    }
}
