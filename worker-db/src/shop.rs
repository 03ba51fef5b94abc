//! The shop: templates that one guild publishes and all may use.

use jiff::Timestamp;
use worker_core::{ContentHash, ShopRef, ShopVersion, Snowflake, TemplateFiles, TemplateName};

use crate::connection::{args, statements, tenant_of};
use crate::kv::from_micros;
use crate::templates::{FileMap, parse_hash, put_content};
use crate::{Change, DbError, WorkerDb};

/// A version in the shop, without its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShopListing {
    /// The version.
    pub version: ShopVersion,
    /// The guild that published it.
    pub owner: Option<Snowflake>,
    /// What the shop says of it.
    pub description: Option<String>,
    /// Its files, see [`contents`](WorkerDb::contents).
    pub content: ContentHash,
    /// When it was published.
    pub created_at: Timestamp,
}

statements! {
    /// Waits until no other transaction publishes under this name, and reads the highest version.
    SHOP_LOCK = "INSERT INTO shop_names (name, latest) VALUES ($1, $2)
        ON CONFLICT (name) DO UPDATE SET latest = shop_names.latest RETURNING latest";
    SHOP_INSERT = "INSERT INTO shop_versions (name, version, owner, description, content, created_at)
        VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
    SHOP_SET_LATEST = "UPDATE shop_names SET latest = $2 WHERE name = $1";
    SHOP_VERSIONS = "SELECT version, owner, description, content, created_at FROM shop_versions WHERE name = $1";
    /// `$3`: whether the version is now the latest.
    SHOP_USERS = "SELECT DISTINCT tenant_kind, tenant_id FROM templates
        WHERE shop_name = $1 AND (shop_version = $2 OR (shop_version IS NULL AND $3))";
}

impl WorkerDb {
    /// Publishes a version. A version never changes: to publish it again is a conflict. Tenants that use `#latest` get it
    /// at once if it is the highest by [`ShopVersion`]'s order.
    pub async fn shop_publish(
        &self,
        name: &str,
        version: &ShopVersion,
        owner: Option<Snowflake>,
        description: Option<&str>,
        files: FileMap,
    ) -> Result<(), DbError> {
        check_shop_name(name, version)?;
        if description.is_some_and(|text| text.contains('\0')) {
            return Err(DbError::invalid("description", "has a NUL character"));
        }
        let files = TemplateFiles::new(files, self.template_limits())?;
        let mut tx = self.pools().begin().await?;
        let latest: Option<(String,)> = tx.fetch_optional(&SHOP_LOCK, &args![name, version.as_str()]).await?;
        let hash = put_content(&mut tx, &files).await?;
        let owner = owner.map(|guild| guild.get().cast_signed());
        let args = args![name, version.as_str(), owner, description, &hash, self.now().as_microsecond()];
        if tx.execute(&SHOP_INSERT, &args).await? == 0 {
            return Err(DbError::Conflict(format!("version `{version}` of `{name}`")));
        }
        let is_latest = latest.is_none_or(|(latest,)| ShopVersion::new(&latest) <= *version);
        if is_latest {
            tx.execute(&SHOP_SET_LATEST, &args![name, version.as_str()]).await?;
        }
        let users = tx.fetch_all(&SHOP_USERS, &args![name, version.as_str(), is_latest]).await?;
        let users = users.into_iter().filter_map(tenant_of);
        self.commit(tx, users.map(|tenant| Change::Templates { tenant }).collect()).await
    }

    /// All versions of a shop template, the highest last.
    pub async fn shop_versions(&self, name: &str) -> Result<Vec<ShopListing>, DbError> {
        type ListingRow = (String, Option<i64>, Option<String>, String, i64);
        let rows: Vec<ListingRow> = self.pools().fetch_all(&SHOP_VERSIONS, &args![name]).await?;
        let listings = rows.into_iter().map(|(version, owner, description, content, created_at)| {
            Ok(ShopListing {
                owner: owner.map(|guild| Snowflake::new(guild.cast_unsigned())),
                description,
                content: parse_hash(&content).map_err(|reason| DbError::DamagedRow { row: version.clone(), reason })?,
                created_at: from_micros(&version, created_at)?,
                version: ShopVersion::new(&version),
            })
        });
        let mut listings: Vec<ShopListing> = listings.collect::<Result<_, DbError>>()?;
        listings.sort_unstable_by(|a, b| a.version.cmp(&b.version));
        Ok(listings)
    }
}

/// A tenant must be able to write the name and the version as `$shop/<name>#<version>`.
fn check_shop_name(name: &str, version: &ShopVersion) -> Result<(), DbError> {
    let text = format!("$shop/{name}#{version}");
    let parsed = TemplateName::new(&text).map_err(|error| DbError::invalid("name", error.to_string()))?;
    if parsed.shop() != Some(ShopRef { name, version: Some(version.as_str()) }) {
        return Err(DbError::invalid("version", format!("`{version}` cannot be a version")));
    }
    Ok(())
}
