//! `wgoal gradient`: the gradient of an objective at given embeddings.

use super::options::{Unused, all_differ, warn};
use super::{DeviceArg, ObjectiveArgs, refuse_overwriting, say, shown};
use clap::Args;
use std::path::PathBuf;
use wgoal::data::{Values, read_ids_npy, read_matrix_npy, read_positions_npy, write_tensors};
use wgoal::gradient::{GradientOptions, numbers};
use wgoal::similarity::{HardNegatives, NegativeOptions, hard_negatives};
use wgoal::{Device, Error, ErrorKind, Objective, Result, TrainConfig};

const EXAMPLES: &str = "\
Examples:
  wgoal gradient --images x.npy --texts y.npy --out g.safetensors
  wgoal gradient --images x.npy --texts y.npy --objective nca:lin --normalize --out g.safetensors";

#[derive(Args)]
#[command(before_long_help = EXAMPLES)]
pub struct GradientArgs {
    /// Image embeddings, an .npy file of shape [N, D], or [M, D] with --text-image
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    images: PathBuf,
    /// Text embeddings, an .npy file of shape [N, D]
    ///
    /// Row i belongs to row i of the images, unless --text-image says otherwise.
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    texts: PathBuf,
    /// Image number of each pair, an .npy file of shape [N] [default: all differ]
    ///
    /// Pairs of the same image are never negatives of each other.
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    ids: Option<PathBuf>,
    /// Image row of each text, an .npy file of shape [N] [default: row i of both is a pair]
    ///
    /// The numbers of images and of texts may then differ. Every image needs at least one text.
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    #[arg(conflicts_with_all = ["ids", "sample_negatives"])]
    text_image: Option<PathBuf>,
    /// Divide each row by its length first
    ///
    /// The gradient is still that at the rows of the files.
    #[arg(long, help_heading = "Data")]
    normalize: bool,
    #[command(flatten)]
    objective: ObjectiveArgs,
    /// Upstream gradient, a factor of the whole gradient
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true, help_heading = "Objective")]
    scale: f32,
    /// Also draw a random negative for each row, with this seed
    ///
    /// The probability of a negative with similarity s is proportional to softmax(s / t) + 1e-5, where t is
    /// --sample-temperature. The results are sampled_text_index and sampled_image_index.
    #[arg(long, value_name = "SEED", help_heading = "Sampling")]
    sample_negatives: Option<u64>,
    /// Temperature of --sample-negatives, above 0 [default: that of infonce or siglip, else 0.07]
    #[arg(long, value_name = "T", requires = "sample_negatives", allow_negative_numbers = true)]
    #[arg(help_heading = "Sampling")]
    sample_temperature: Option<f32>,
    #[command(flatten)]
    device: DeviceArg,
    /// .safetensors file for the gradient
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    out: PathBuf,
}

impl GradientArgs {
    pub fn run(self) -> Result<()> {
        let weights = self.objective.weights.as_ref();
        let inputs =
            [Some(&self.images), Some(&self.texts), self.ids.as_ref(), self.text_image.as_ref(), weights];
        refuse_overwriting("--out", &self.out, inputs.into_iter().flatten().cloned())?;
        let objective = self.objective.apply(TrainConfig::default().objective)?;
        let (rows, dim, images) = read_matrix_npy(&self.images)?;
        let (text_rows, text_dim, texts) = read_matrix_npy(&self.texts)?;
        self.check_shapes([rows, dim], [text_rows, text_dim])?;
        let ids = self.ids.as_deref().map(read_ids_npy).transpose()?;
        let ids = ids.map(|ids| numbers(&ids.to_vec()));
        let text_image = self.text_image.as_deref().map(read_positions_npy).transpose()?;
        self.warn_of_rows(&self.images, &images, dim);
        self.warn_of_rows(&self.texts, &texts, dim);
        self.warn_unused(&objective, ids.as_deref(), rows);
        let device = self.device.open()?;
        let options = GradientOptions::default().with(|c| {
            c.normalize = self.normalize;
            c.ids = ids.as_deref();
            c.text_image = text_image.as_deref();
            c.scale = self.scale;
        });
        let g = objective.gradients(&device, (&images, dim), (&texts, dim), options)?;

        let sampled = self.sampled(&device, &objective, [&images, &texts], dim, ids.as_deref())?;
        let (matrix, vector) = ([rows, dim], [rows]);
        let (of_texts, per_text) = ([text_rows, dim], [text_rows]);
        let (loss, temperature, logit_bias) = ([g.loss], [g.temperature], [g.logit_bias]);
        let mut tensors: Vec<(&str, &[usize], Values)> = vec![
            ("grad_images", &matrix, Values::F32(&g.images)),
            ("grad_texts", &of_texts, Values::F32(&g.texts)),
            ("positive", &per_text, Values::F32(&g.positive)),
            ("hardest_text", &vector, Values::F32(&g.hardest_text)),
            ("hardest_image", &per_text, Values::F32(&g.hardest_image)),
            ("hardest_text_index", &vector, Values::Positions(&g.hardest_text_index)),
            ("hardest_image_index", &per_text, Values::Positions(&g.hardest_image_index)),
            ("loss", &[], Values::F32(&loss)),
            ("grad_temperature", &[], Values::F32(&temperature)),
            ("grad_logit_bias", &[], Values::F32(&logit_bias)),
        ];
        if let Some(sampled) = &sampled {
            tensors.push(("sampled_text_index", &vector, Values::Positions(&sampled.texts)));
            tensors.push(("sampled_image_index", &vector, Values::Positions(&sampled.images)));
        }
        write_tensors(&self.out, &tensors)?;
        let count = match text_image {
            None => format!("{rows} pairs"),
            Some(_) => format!("{rows} images and {text_rows} texts"),
        };
        say(format!("{objective}: loss {} over {count} of width {dim}, in {}", g.loss, shown(&self.out)))
    }
}

impl GradientArgs {
    /// Whether the texts fit the images.
    fn check_shapes(&self, [rows, dim]: [usize; 2], texts: [usize; 2]) -> Result<()> {
        let (shape, expected, advice) = match self.text_image {
            None => {
                let advice = "give one text embedding for each image embedding, or --text-image";
                ([rows, dim], format!("shape [{rows}, {dim}]"), advice)
            }
            Some(_) => ([texts[0], dim], format!("a width of {dim}"), "give texts as wide as the images"),
        };
        if texts != shape {
            return Err(Error::new(
                ErrorKind::Data,
                self.texts.display(),
                format!("{expected}, that of {}", self.images.display()),
                format!("{texts:?}"),
                advice,
            ));
        }
        Ok(())
    }

    /// Warns of options without effect.
    fn warn_unused(&self, objective: &Objective, ids: Option<&[u32]>, rows: usize) {
        let mut unused = Vec::new();
        if self.objective.learn_temperature.is_some() && objective.logits().is_some() {
            let why = "the gradient of the temperature is always written, as grad_temperature";
            unused.push(Unused::new("learn-temperature", why));
        }
        if ids.is_some_and(|ids| ids.len() == rows && all_differ(ids)) {
            unused.push(Unused::new("ids", "no two pairs belong to the same image"));
        }
        warn(&unused);
    }

    /// The negatives of --sample-negatives.
    fn sampled(
        &self,
        device: &Device,
        objective: &Objective,
        embeddings: [&[f32]; 2],
        dim: usize,
        ids: Option<&[u32]>,
    ) -> Result<Option<HardNegatives>> {
        let Some(seed) = self.sample_negatives else { return Ok(None) };
        let usual = NegativeOptions::default().temperature;
        let usual = objective.logits().map_or(usual, |logits| logits.temperature);
        let temperature = self.sample_temperature.unwrap_or(usual);
        let [images, texts] =
            embeddings.map(|values| if self.normalize { unit_rows(values, dim) } else { values.to_vec() });
        let options = NegativeOptions::default().with(|c| {
            c.ids = ids;
            c.temperature = temperature;
            c.seed = seed;
        });
        Ok(Some(hard_negatives(device, (&images, dim), (&texts, dim), options)?))
    }

    /// Warns of rows that are not unit vectors, which the weights assume, or that have no direction.
    fn warn_of_rows(&self, path: &std::path::Path, values: &[f32], dim: usize) {
        // The lengths of normalised rows that were saved as f16 differ from 1 by less.
        const NEAR: f64 = 1e-3;
        let length = |row: &[f32]| row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
        let wrong = |length: &f64| if self.normalize { *length == 0.0 } else { (length - 1.0).abs() > NEAR };
        let lengths = values.chunks_exact(dim).map(length).enumerate();
        let mut wrong = lengths.filter(|(_, length)| wrong(length));
        let Some((first, length)) = wrong.next() else { return };
        let (count, rows, path) = (1 + wrong.count(), values.len() / dim, shown(path));
        if self.normalize {
            note!(
                "warning: {count} of the {rows} rows of {path} are zero and have no direction, the first is row {first}"
            );
        } else {
            note!(
                "warning: {count} of the {rows} rows of {path} are not unit vectors, the first is row {first} of \
                 length {length:.4}; objectives assume unit vectors: add --normalize"
            );
        }
    }
}

/// The rows divided by their lengths, as the device does it.
fn unit_rows(values: &[f32], dim: usize) -> Vec<f32> {
    let unit = |row: &[f32]| {
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt() + 1e-8;
        row.iter().map(|x| x / length).collect::<Vec<_>>()
    };
    values.chunks_exact(dim).flat_map(unit).collect()
}
