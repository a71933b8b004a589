"""Small tables in the documented export formats of shop systems, and the products that they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lookalike.product_rules import CatalogueProduct


@dataclass(frozen=True, kw_only=True)
class ShopExport:
    preset: str
    file: str
    text: str
    products: Sequence[CatalogueProduct]
    encoding: str = "utf-8"


_TEE = CatalogueProduct(
    id="linen-tee",
    title="Linen Tee",
    description="Soft & light.\nMade in Japan.",
    category="apparel-&-accessories/clothing/shirts",
    shop="Acme",
    price=18.5,
    in_stock=True,
    image="https://cdn.example/tee.jpg?v=1",
    tags=("new", "summer"),
)
_GIFT_CARD = CatalogueProduct(id="gift", title="Gift card", category="cards", price=10.0)

_SHOPIFY = """\
Handle,Title,Body (HTML),Vendor,Product Category,Type,Tags,Published,Option1 Name,Option1 Value,Variant SKU,\
Variant Inventory Tracker,Variant Inventory Qty,Variant Inventory Policy,Variant Price,Image Src,Image Position,Status
linen-tee,Linen Tee,"<p>Soft &amp; light.</p>
<p>Made in <b>Japan</b>.</p>",Acme,Apparel & Accessories > Clothing > Shirts,Tees,"summer, new",true,Size,S,T-S,\
shopify,0,deny,20.00,https://cdn.example/tee.jpg?v=1,1,active
linen-tee,,,,,,,,,M,T-M,shopify,3,deny,18.50,https://cdn.example/tee-2.jpg,2,
linen-tee,,,,,,,,,,,,,,,https://cdn.example/tee-3.jpg,3,
draft-bag,Draft bag,,Acme,,Bags,,false,Title,Default Title,B,shopify,5,deny,90.00,,,draft
draft-bag,,,,,,,,,Blue,B2,shopify,5,deny,90.00,,,
gift,Gift card,,,,Cards,,true,Title,Default Title,,,0,deny,10.00,,,active
"""

_SHOPIFY_2025 = """\
Title,URL handle,Description,Vendor,Product category,Type,Tags,Published on online store,Status,SKU,Price,\
Inventory tracker,Inventory quantity,Product image URL
Linen Tee,linen-tee,"<p>Soft &amp; light.</p>
<p>Made in <b>Japan</b>.</p>",Acme,Apparel & Accessories > Clothing > Shirts,Tees,"summer, new",TRUE,Active,T-S,18.50,\
shopify,2,https://cdn.example/tee.jpg?v=1
Gift card,gift,,,,Cards,,TRUE,Active,,10.00,,0,
"""

_WOOCOMMERCE = """\
ID,Type,SKU,Name,Published,"Is featured?","Visibility in catalog","Short description",Description,"In stock?",Stock,\
"Sale price","Regular price",Categories,Tags,Images,Parent
44,variable,HOODIE,"Hoodie &amp; more",1,0,visible,"<p>Warm</p>",,1,,,,"Clothing > Hoodies, Clothing","warm, new",\
"https://shop.example/h.jpg, https://shop.example/h2.jpg",
45,variation,HOODIE-R,"Hoodie - Red",1,0,visible,,,0,0,,45,,,https://shop.example/red.jpg,HOODIE
46,variation,HOODIE-B,"Hoodie - Blue",1,0,visible,,,1,5,38,42,,,,HOODIE
47,simple,,Draft,-1,0,visible,,,1,,,5,,,,
48,variable,,Cap,1,0,visible,,Sun cap,0,,,,Accessories,,,
49,variation,,"Cap - L",1,0,visible,,,backorder,,,12,,,,id:48
"""

_GOOGLE = """\
id\ttitle\tdescription\tlink\timage link\tavailability\tprice\tsale price\tbrand\tgoogle product category\t\
product type\titem group id\tcolor\tgender
A1\tLinen shirt red\tSoft\thttps://shop.example/a1\thttps://shop.example/a1.jpg\tin_stock\t15.00 USD\t12.00 USD\tAcme\t\
Apparel & Accessories > Clothing\tHome > Women > Shirts\tSHIRT\tRed\tfemale
A2\tLinen shirt blue\tSoft\thttps://shop.example/a2\t\tout of stock\t14.00 USD\t\tAcme\tApparel & Accessories\t\
Home > Women > Shirts\tSHIRT\tBlue\tfemale
B1\tLamp\t\thttps://shop.example/b1\t\tpreorder\t30.00 USD\t\t\t2271\t\t\t\t
"""

_ECCUBE = """\
商品ID,公開ステータス(ID),公開ステータス(名称),商品名,商品説明(一覧),商品説明(詳細),商品規格ID,規格分類1(名称),商品コード,在庫数,\
在庫数無制限フラグ,通常価格,販売価格,商品画像,商品カテゴリ(ID),商品カテゴリ(名称),タグ(ID),タグ(名称)
1,1,公開,彩のジェラート,,<p>自然な甘さの<br>ジェラート①</p>,1,チョコ,cube-01,0,0,3000,2800,"01.jpg,02.jpg","5,6",\
"ジェラート,新入荷",1,新商品
1,1,公開,彩のジェラート,,<p>自然な甘さの<br>ジェラート①</p>,2,抹茶,cube-02,10,0,3000,2500,"01.jpg,02.jpg","5,6",\
"ジェラート,新入荷",1,新商品
2,1,公開,チェリーアイスサンド,さくらんぼ,,3,,sand-01,,1,,1800,,,,,
3,2,非公開,準備中,,,4,,x,5,0,,100,,,,,
"""

PRESET_TABLES = {
    "shopify": ShopExport(preset="shopify", file="products_export.csv", text=_SHOPIFY, products=[_TEE, _GIFT_CARD]),
    "shopify, column names of 2025": ShopExport(
        preset="shopify", file="products_export.csv", text=_SHOPIFY_2025, products=[_TEE, _GIFT_CARD]
    ),
    "woocommerce": ShopExport(
        preset="woocommerce",
        file="wc-product-export.csv",
        text=_WOOCOMMERCE,
        encoding="utf-8-sig",
        products=[
            CatalogueProduct(
                id="44",
                title="Hoodie & more",
                description="Warm",
                category="clothing/hoodies",
                price=38,
                image="https://shop.example/h.jpg",
                tags=("new", "warm"),
            ),
            CatalogueProduct(
                id="48", title="Cap", description="Sun cap", category="accessories", price=12, in_stock=False
            ),
        ],
    ),
    "google-merchant": ShopExport(
        preset="google-merchant",
        file="feed.txt",
        text=_GOOGLE,
        products=[
            CatalogueProduct(
                id="A1",
                title="Linen shirt red",
                description="Soft",
                category="home/women/shirts",
                shop="Acme",
                price=12,
                currency="USD",
                image="https://shop.example/a1.jpg",
                url="https://shop.example/a1",
                tags=("colour:blue", "colour:red", "gender:female"),
            ),
            CatalogueProduct(
                id="B1",
                title="Lamp",
                category="2271",
                price=30,
                currency="USD",
                in_stock=False,
                url="https://shop.example/b1",
            ),
        ],
    ),
    **{
        f"eccube in {encoding}": ShopExport(
            preset="eccube",
            file="product.csv",
            text=_ECCUBE,
            encoding=encoding,
            products=[
                CatalogueProduct(
                    id="1",
                    title="彩のジェラート",
                    description="自然な甘さの ジェラート①",
                    category="ジェラート",
                    price=2500,
                    currency="JPY",
                    tags=("新商品",),
                ),
                CatalogueProduct(
                    id="2",
                    title="チェリーアイスサンド",
                    description="さくらんぼ",
                    category="uncategorized",
                    price=1800,
                    currency="JPY",
                ),
            ],
        )
        for encoding in ("utf-8", "cp932")
    },
}
