//! What a step leaves for its caller.

use super::Pipeline;
use crate::Result;
use crate::kernels::RECORD;

/// The statistics of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct StepStats {
    /// The value of the objective: a sum over the batch for GOAL and hinge, divided by the number of pairs for InfoNCE and
    /// SigLIP.
    pub loss: f32,
    /// The mean positive similarity.
    pub positive: f32,
    /// The mean similarity of the hardest negatives, over both directions.
    pub hardest: f32,
    /// The norm of the gradient over all parameters, before clipping.
    pub gradient_norm: f32,
    /// Whether the gradient was clipped.
    pub clipped: bool,
}

impl Pipeline {
    pub(super) async fn fetch_records(&mut self) -> Result<()> {
        let rows = self.records.read(&self.device, 0..self.recorded * RECORD).await?;
        self.fetched.extend(rows.chunks_exact(RECORD).map(|row| StepStats {
            loss: row[0],
            positive: row[1],
            hardest: row[2],
            gradient_norm: row[3],
            clipped: row[4] > 0.0,
        }));
        self.recorded = 0;
        Ok(())
    }

    /// [`Pipeline::records`] without waiting.
    ///
    /// # Errors
    /// The same as those of [`Pipeline::records`].
    pub async fn records_async(&mut self) -> Result<Vec<StepStats>> {
        self.fetch_records().await?;
        Ok(std::mem::take(&mut self.fetched))
    }
}
