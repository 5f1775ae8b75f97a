//! What is known of an image or a text: its row, its name, its captions.

use serde::Serialize;
use std::collections::HashMap;
use std::fmt::{self, Display};
use wgoal::data::Side;
use wgoal::{Dataset, Plain, Result};

/// Most captions of an image that are shown.
const CAPTIONS: usize = 5;

/// An image with its captions, or a text with its image.
#[derive(Serialize, Default)]
pub struct Item {
    /// The row of the image; of a text, the row of its image, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<u64>,
    /// The image's line of image_names.txt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The text's line of captions.txt, or those of the image's texts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub captions: Vec<String>,
}

impl Item {
    /// Its row on this side.
    pub fn row(&self, side: Side) -> Option<u64> {
        match side {
            Side::Image => self.image,
            Side::Text => self.text,
        }
    }
}

impl Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let captions = self.captions.iter().map(|caption| format!("\"{}\"", Plain(caption)));
        let name = self.name.iter().map(|name| Plain(name).to_string());
        let parts: Vec<String> = name.chain(captions).collect();
        f.write_str(&parts.join("  "))
    }
}

/// Items in the order of the rows asked for.
pub struct Items(pub Vec<Item>);

impl Items {
    /// Looks at the texts of a dataset once.
    ///
    /// # Errors
    /// A file of captions or names that does not fit the dataset.
    pub fn of(dataset: &Dataset, side: Side, rows: &[u64]) -> Result<Self> {
        let owned = |caption: Option<&str>| caption.map(str::to_string);
        if side == Side::Text {
            let item = |&row: &u64| -> Result<Item> {
                let image = dataset.text_to_image().get(row as usize);
                let name = image.map_or(Ok(None), |image| dataset.image_name(image as usize))?;
                let captions = dataset.caption(row as usize)?.map(str::to_string).into_iter().collect();
                Ok(Item { image, text: Some(row), name: owned(name), captions })
            };
            return rows.iter().map(item).collect::<Result<_>>().map(Self);
        }
        let mut captions: HashMap<u64, Vec<String>> = rows.iter().map(|&row| (row, Vec::new())).collect();
        for (text, image) in dataset.text_to_image().iter().enumerate() {
            let Some(known) = captions.get_mut(&image).filter(|known| known.len() < CAPTIONS) else {
                continue;
            };
            known.extend(owned(dataset.caption(text)?));
        }
        let item = |&row: &u64| -> Result<Item> {
            let name = owned(dataset.image_name(row as usize)?);
            Ok(Item {
                image: Some(row),
                text: None,
                name,
                captions: captions.remove(&row).unwrap_or_default(),
            })
        };
        rows.iter().map(item).collect::<Result<_>>().map(Self)
    }
}
