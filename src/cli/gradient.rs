//! `wgoal gradient`: the gradient of an objective at given embeddings.

use super::{DeviceArg, ObjectiveArgs, say};
use clap::Args;
use safetensors::tensor::{Dtype, TensorView};
use std::path::PathBuf;
use wgoal::data::{read_ids_npy, read_matrix_npy, write_file};
use wgoal::{Error, ErrorKind, GradientOptions, Result, TrainConfig};

#[derive(Args)]
pub struct GradientArgs {
    /// Image embeddings [N, D], .npy
    #[arg(long)]
    images: PathBuf,
    /// Text embeddings [N, D], .npy; row i belongs to image row i
    #[arg(long)]
    texts: PathBuf,
    #[command(flatten)]
    objective: ObjectiveArgs,
    /// Image of each pair [N], .npy: pairs of one image are no negatives of each other
    #[arg(long)]
    ids: Option<PathBuf>,
    /// L2-normalise the rows first; the gradient is at the raw rows
    #[arg(long)]
    normalize: bool,
    /// Upstream gradient
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    scale: f32,
    #[command(flatten)]
    device: DeviceArg,
    /// The .safetensors file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl GradientArgs {
    pub fn run(self) -> Result<()> {
        let objective = self.objective.apply(TrainConfig::default().objective)?;
        let (rows, dim, images) = read_matrix_npy(&self.images)?;
        let (text_rows, text_dim, texts) = read_matrix_npy(&self.texts)?;
        if (text_rows, text_dim) != (rows, dim) {
            return Err(Error::new(
                ErrorKind::Data,
                self.texts.display(),
                format!("shape [{rows}, {dim}], that of {}", self.images.display()),
                format!("[{text_rows}, {text_dim}]"),
                "give one text embedding for each image embedding",
            ));
        }
        let ids = self.ids.as_deref().map(read_ids_npy).transpose()?;
        let device = self.device.open()?;
        let options = GradientOptions { normalize: self.normalize, ids: ids.as_deref(), scale: self.scale };
        let g = objective.gradients(&device, &images, &texts, dim, options)?;

        let (matrix, vector) = (vec![rows, dim], vec![rows]);
        let bytes = |values| bytemuck::cast_slice::<f32, u8>(values);
        let (loss, temperature) = ([g.loss], [g.temperature]);
        let tensors = [
            ("grad_images", Dtype::F32, &matrix, bytes(&g.images)),
            ("grad_texts", Dtype::F32, &matrix, bytes(&g.texts)),
            ("positive", Dtype::F32, &vector, bytes(&g.positive)),
            ("hardest_text", Dtype::F32, &vector, bytes(&g.hardest_text)),
            ("hardest_image", Dtype::F32, &vector, bytes(&g.hardest_image)),
            ("hardest_text_index", Dtype::U32, &vector, bytemuck::cast_slice(&g.hardest_text_index)),
            ("hardest_image_index", Dtype::U32, &vector, bytemuck::cast_slice(&g.hardest_image_index)),
            ("loss", Dtype::F32, &vec![], bytes(&loss)),
            ("grad_temperature", Dtype::F32, &vec![], bytes(&temperature)),
        ];
        let unwritable = |e: safetensors::SafeTensorError| {
            let expected = "tensors that can be written";
            Error::new(ErrorKind::Data, self.out.display(), expected, e, "report this as a bug")
        };
        let views = tensors.into_iter().map(|(name, dtype, shape, data)| {
            Ok((name, TensorView::new(dtype, shape.clone(), data).map_err(unwritable)?))
        });
        let bytes = safetensors::serialize(views.collect::<Result<Vec<_>>>()?, None).map_err(unwritable)?;
        write_file(&self.out, &bytes)?;
        say(format!(
            "{objective}: loss {} over {rows} pairs of width {dim}, in {}",
            g.loss,
            self.out.display()
        ));
        Ok(())
    }
}
