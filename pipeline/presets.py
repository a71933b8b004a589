"""How the exports of known shop systems map to a product: their documented columns. Pure."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final

from pipeline.column_mapping import ColumnMapping, Condition

# Shops may leave the category of a product empty; an index needs one.
_NO_CATEGORY: Final = "uncategorized"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """The mapping of one shop system's export, and the encoding that it documents for files that are not UTF-8."""

    mapping: ColumnMapping
    encoding: str = ""


def _mapping(
    fields: dict[str, list[str]],
    *,
    fallbacks: dict[str, list[str]],
    required: tuple[str, ...],
    image: str,
    group: tuple[str, ...],
    where: tuple[Condition, ...] = (),
    in_stock_where: tuple[Condition, ...] = (),
    **options: str,
) -> ColumnMapping:
    mapping = ColumnMapping(
        fields=fields,
        fallbacks=fallbacks,
        image=image,
        group=group,
        where=where,
        in_stock_where=in_stock_where,
        default_category=_NO_CATEGORY,
        strip_html=True,
        constants={"currency": options.pop("currency")} if "currency" in options else {},
        **options,  # type: ignore[arg-type]  # fields of ColumnMapping that are texts
    )
    others = {other for columns in fallbacks.values() for other in columns}
    conditions = {condition.column for condition in (*where, *in_stock_where)}
    return dataclasses.replace(mapping, optional=frozenset((mapping.columns() | others | conditions) - set(required)))


# https://help.shopify.com/en/manual/products/import-export/using-csv: one row for each variant and photo; the columns
# of the product are filled in its first row only. Column names of 2025 are the fallbacks.
_SHOPIFY: Final = _mapping(
    {
        "id": ["Handle"],
        "title": ["Title"],
        "description": ["Body (HTML)"],
        "category": ["Product Category"],
        "shop": ["Vendor"],
        "price": ["Variant Price"],
        "in_stock": ["Variant Inventory Qty"],
        "tags": ["Tags"],
    },
    fallbacks={
        "Handle": ["URL handle"],
        "Body (HTML)": ["Description"],
        "Product Category": ["Type"],
        "Variant Price": ["Price"],
        "Variant Inventory Qty": ["Inventory quantity"],
        "Image Src": ["Product image URL", "Variant Image", "Variant image URL"],
    },
    required=("Title",),
    # A quantity that nobody tracks is 0.
    in_stock_where=(Condition("Variant Inventory Tracker", ""), Condition("Inventory tracker", "")),
    where=(Condition("Status", "draft", equal=False), Condition("Status", "archived", equal=False)),
    image="{Image Src}",
    group=("{Handle}",),
    category_separator=">",
    tags_separator=",",
)

# WooCommerce > Products > Export, includes/export/class-wc-product-csv-exporter.php: a variation names its parent by
# SKU, or as id:ID if that has none. Published: 1; private 0; draft -1.
_WOOCOMMERCE: Final = _mapping(
    {
        "id": ["ID"],
        "title": ["Name"],
        "description": ["Description"],
        "category": ["Categories"],
        "shop": ["Brands"],
        "price": ["Sale price"],
        "in_stock": ["In stock?"],
        "tags": ["Tags"],
    },
    fallbacks={
        "Description": ["Short description"],
        "Sale price": ["Regular price"],
        "In stock?": ["Stock"],
    },
    required=("ID", "Name"),
    where=(Condition("Published", "0", equal=False), Condition("Published", "-1", equal=False)),
    image="{Images}",
    image_separator=",",
    group=("{Parent}", "{SKU}", "id:{ID}"),
    category_separator=">",
    category_list_separator=",",
    tags_separator=",",
)

# https://support.google.com/merchants/answer/7052112: tab-separated, or XML, which is not read. Prices are "12.00 USD".
_GOOGLE_MERCHANT: Final = _mapping(
    {
        "id": ["id"],
        "title": ["title"],
        "description": ["description"],
        "category": ["product_type"],
        "shop": ["brand"],
        "price": ["sale_price"],
        "in_stock": ["availability"],
        "url": ["link"],
        "tags": [
            "colour:{color}",
            "gender:{gender}",
            "age:{age_group}",
            "material:{material}",
            "condition:{condition}",
        ],
        "expires_at": ["expiration_date"],
    },
    fallbacks={"product_type": ["google_product_category"], "sale_price": ["price"]},
    required=("id", "title"),
    image="{image_link}",
    group=("{item_group_id}",),
    category_separator=">",
)

# EC-CUBE 4, src/Eccube/Resource/doctrine/import_csv/ja/dtb_csv.csv: one row for each 商品規格; EC-CUBE 2's names are
# the fallbacks. 公開ステータス: 1 public, 2 private, 3 abolished. Windows' Shift-JIS unless the shop's setting
# eccube_csv_export_encoding is changed.
_ECCUBE: Final = _mapping(
    {
        "id": ["商品ID"],
        "title": ["商品名"],
        "description": ["商品説明(詳細)"],
        "category": ["商品カテゴリ(名称)"],
        "price": ["販売価格"],
        "in_stock": ["在庫数"],
        "tags": ["タグ(名称)"],
    },
    fallbacks={
        "商品説明(詳細)": ["商品説明(一覧)", "詳細-メインコメント", "一覧-メインコメント"],
        "商品カテゴリ(名称)": ["カテゴリ名"],
        "販売価格": ["通常価格"],
        "商品画像": ["詳細-メイン画像", "一覧-メイン画像"],
    },
    required=("商品ID", "商品名"),
    in_stock_where=(Condition("在庫数無制限フラグ", "1"), Condition("在庫数無制限", "1")),
    where=(
        Condition("公開ステータス(ID)", "2", equal=False),
        Condition("公開ステータス(ID)", "3", equal=False),
        Condition("商品削除フラグ", "1", equal=False),
    ),
    image="{商品画像}",
    image_separator=",",
    group=("{商品ID}",),
    category_separator=">",
    category_list_separator=",",
    tags_separator=",",
    currency="JPY",
)

PRESETS: Final = {
    "shopify": Preset(mapping=_SHOPIFY),
    "woocommerce": Preset(mapping=_WOOCOMMERCE),
    "google-merchant": Preset(mapping=_GOOGLE_MERCHANT),
    "eccube": Preset(mapping=_ECCUBE, encoding="cp932"),
}
