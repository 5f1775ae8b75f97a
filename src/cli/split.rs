//! `wgoal split`: divides the images of a dataset into splits, and writes the split files.

use super::{make_folder, refuse_overwriting, say, shown};
use clap::Args;
use std::path::{Path, PathBuf};
use wgoal::data::{Division, RowList, write_ids_npy};
use wgoal::{Dataset, Error, ErrorKind, Result, Split};

const EXAMPLES: &str = "\
Examples:
  wgoal split my-features
  wgoal split my-features --val 5 --test 15 --seed 1
  wgoal split my-features --missing --replace";

#[derive(Args)]
#[command(before_long_help = EXAMPLES)]
pub struct SplitArgs {
    /// Folder, .safetensors or .npz file with features
    ///
    /// A dataset without splits is divided in the same way when a command reads it, so writing the files changes no
    /// result. Images with the same features stay together, and captions stay with their image.
    dataset: PathBuf,
    /// Percent of the images for split_train [default: the rest]
    #[arg(long, value_name = "PERCENT", allow_negative_numbers = true, help_heading = "Splits")]
    train: Option<f64>,
    /// Percent of the images for split_val; 0 writes no such file
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0, allow_negative_numbers = true)]
    #[arg(help_heading = "Splits")]
    val: f64,
    /// Percent of the images for split_test; 0 writes no such file
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0, allow_negative_numbers = true)]
    #[arg(help_heading = "Splits")]
    test: f64,
    /// Seed of the order in which images are chosen
    #[arg(long, default_value_t = 0, help_heading = "Splits")]
    seed: u64,
    /// Keep the splits that exist, and take the others out of split_train
    ///
    /// The percentages are then those of split_train. Where split_train is missing, it gets the images that are in no
    /// other split.
    #[arg(long, conflicts_with = "train", help_heading = "Splits")]
    missing: bool,
    /// Folder for split_train.npy, split_val.npy and split_test.npy [default: the folder of the dataset]
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    out: Option<PathBuf>,
    /// Replace split files that exist
    #[arg(long, help_heading = "Output")]
    replace: bool,
}

fn refuse(thing: impl std::fmt::Display, expected: &str, found: &str, advice: &str) -> Error {
    Error::new(ErrorKind::Config, thing, expected, found, advice)
}

impl SplitArgs {
    pub fn run(self) -> Result<()> {
        let dataset = Dataset::open_for(&self.dataset, &[])?;
        let out = match (&self.out, dataset.folder()) {
            (Some(out), _) => out.clone(),
            (None, Some(folder)) => folder.to_path_buf(),
            (None, None) => {
                let advice = "give --out DIR, and add the arrays written there to the file";
                return Err(refuse(self.dataset.display(), "a folder to write to", "a file", advice));
            }
        };
        if let Some(split) = self.left_over(&dataset) {
            let path = out.join(format!("split_{split}.npy"));
            let advice = format!("remove it, or give --{split} a percentage above 0");
            return Err(refuse(
                path.display(),
                "no such split, for its percentage is 0",
                "its file",
                &advice,
            ));
        }
        dataset.check_division()?;
        let splits = if self.missing { self.of_missing(&dataset)? } else { self.of_all(&dataset)? };
        let path = |split: Split| out.join(format!("split_{split}.npy"));
        for (split, _) in &splits {
            self.refuse(&dataset, *split, &path(*split))?;
        }
        make_folder(&out)?;
        for (split, rows) in &splits {
            write_ids_npy(&path(*split), rows)?;
            say(format!("{}: {} of {} images", shown(&path(*split)), rows.len(), dataset.images()))?;
        }
        if dataset.folder().is_none() {
            note!("note: add these arrays to {}, where wgoal looks for them", shown(&self.dataset));
        }
        Ok(())
    }

    /// A split that exists, gets no images, and would stay beside the new ones.
    fn left_over(&self, dataset: &Dataset) -> Option<Split> {
        let shares = self.division().shares;
        let stays = |split: &Split| dataset.stores(*split) && shares[*split as usize] == 0.0;
        Split::ALL
            .into_iter()
            .find(|split| !self.missing && self.out.is_none() && self.replace && stays(split))
    }

    fn division(&self) -> Division {
        let train = self.train.unwrap_or_else(|| (100.0 - self.val - self.test).max(0.0));
        Division::default().with(|division| {
            division.shares = [train, self.val, self.test];
            division.seed = self.seed;
        })
    }

    /// New splits of all images.
    fn of_all(&self, dataset: &Dataset) -> Result<Vec<(Split, RowList)>> {
        let splits = dataset.divide(&dataset.all_rows().images, &self.division())?;
        Ok(Split::ALL.into_iter().zip(splits).filter(|(_, rows)| !rows.is_empty()).collect())
    }

    /// The splits that are missing, and the training split that is left. The new splits come first: if writing fails in
    /// between, the next command finds images that are in two splits and reports it.
    fn of_missing(&self, dataset: &Dataset) -> Result<Vec<(Split, RowList)>> {
        let stored: Vec<Split> = Split::ALL.into_iter().filter(|&split| dataset.stores(split)).collect();
        if stored.len() == Split::ALL.len() {
            let advice = "leave --missing out to make new splits";
            return Err(refuse(
                self.dataset.display(),
                "a split that is missing",
                "all three splits",
                advice,
            ));
        }
        let opened = Dataset::open_for(&self.dataset, &stored)?;
        let pool: RowList = match dataset.stores(Split::Train) {
            true => opened.split(Split::Train).images.clone(),
            false => {
                let mut free = vec![true; dataset.images()];
                stored
                    .iter()
                    .flat_map(|&split| &opened.split(split).images)
                    .for_each(|row| free[row as usize] = false);
                (0..dataset.images() as u64).filter(|&row| free[row as usize]).collect()
            }
        };
        let mut division = self.division();
        for split in [Split::Val, Split::Test].into_iter().filter(|split| stored.contains(split)) {
            division.shares[0] += division.shares[split as usize];
            division.shares[split as usize] = 0.0;
        }
        let [_, val, test] = dataset.divide(&pool, &division)?;
        let taken: std::collections::HashSet<u64> = val.iter().chain(&test).collect();
        let train: RowList = pool.iter().filter(|row| !taken.contains(row)).collect();
        let keeps = dataset.stores(Split::Train) && taken.is_empty();
        let splits = [
            (Split::Val, val),
            (Split::Test, test),
            (Split::Train, if keeps { RowList::default() } else { train }),
        ];
        let splits: Vec<_> = splits.into_iter().filter(|(_, rows)| !rows.is_empty()).collect();
        if splits.is_empty() {
            let advice = "give --val or --test a percentage above 0";
            return Err(refuse(self.dataset.display(), "images for a missing split", "none", advice));
        }
        Ok(splits)
    }

    /// Refuses to replace a file, unless asked to. Files other than splits are never replaced.
    fn refuse(&self, dataset: &Dataset, split: Split, path: &Path) -> Result<()> {
        let is_split =
            |input: &PathBuf| Split::ALL.iter().any(|split| input.ends_with(format!("split_{split}.npy")));
        refuse_overwriting(
            "--out",
            path,
            Dataset::paths(&self.dataset).into_iter().filter(|input| !is_split(input)),
        )?;
        let exists = std::fs::symlink_metadata(path).is_ok();
        // Parquet files, numbered files and layouts of other programs have splits, too. A plain file comes before them.
        let elsewhere = self.out.is_none() && dataset.stores(split);
        if self.replace || !(exists || elsewhere) {
            return Ok(());
        }
        let all = Split::ALL.into_iter().all(|split| dataset.stores(split));
        let advice = match (self.out.is_some(), self.missing) {
            (true, _) => "choose another --out, or add --replace to replace the file",
            (false, true) if split == Split::Train => {
                "add --replace to take images out of it, or --out DIR to write the new splits elsewhere"
            }
            (false, false) if !all => {
                "add --missing --replace to keep the splits that exist and take the others out of split_train, or \
                 --replace to make all of them anew"
            }
            _ => "add --replace to replace it, or --out DIR to write the splits elsewhere",
        };
        match exists {
            true => Err(refuse(path.display(), "no file of this name", "one", advice)),
            false => {
                Err(refuse(path.display(), "no such split", "one in other files of the dataset", advice))
            }
        }
    }
}
