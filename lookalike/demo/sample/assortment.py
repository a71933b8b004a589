"""The leaf categories of the sample catalogue, and how their products are drawn, named and priced. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lookalike.demo.sample.drawing import accessories, clothes, gadgets, home, treats
from lookalike.demo.sample.drawing.look import Look
from lookalike.demo.sample.drawing.palette import COLOURS, Colour
from lookalike.demo.sample.drawing.patterns import (
    BORDER,
    CLOTHS,
    DOT,
    FLOWER,
    GINGHAM,
    SOLID,
    STAR,
    STRIPE,
    TARTAN,
    Pattern,
)
from lookalike.demo.sample.drawing.pen import Pen

Words = tuple[str, str]  # In English and in Japanese.

_COTTON: Words = ("Cotton", "綿100%")
_LINEN: Words = ("Linen", "リネン")
_WOOL: Words = ("Wool", "ウール")
_LEATHER: Words = ("Leather", "本革")
_CANVAS: Words = ("Canvas", "キャンバス")
_NYLON: Words = ("Nylon", "ナイロン")
_STEEL: Words = ("Stainless Steel", "ステンレス")
_CHINA: Words = ("Porcelain", "磁器")
_MINO: Words = ("Mino Ware", "美濃焼")
_OAK: Words = ("Oak", "オーク材")
_RUBBERWOOD: Words = ("Rubberwood", "天然木")
_PLASTIC: Words = ("ABS", "ABS樹脂")
_ALUMINIUM: Words = ("Aluminium", "アルミ")
_PAPER: Words = ("Paperback", "単行本")
_GIFT: Words = ("Gift Box", "ギフト対応")

# The `materials` of the leaf categories that are real materials; the others are sizes, features and wrappings.
MATERIALS = frozenset(
    ("ABS", "Aluminium", "Arita Ware", "Beech", "Canvas", "Carbon", "Chiffon", "Chromoly", "Cotton", "Denim", "Enamel",
     "Fabric", "Fleece", "Glass", "Leather", "Linen", "Mino Ware", "Nylon", "Oak", "Organic Cotton", "Porcelain",
     "Rubberwood", "Stainless Steel", "Suede", "Tokoname Ware", "Wooden", "Wool")
)  # fmt: skip

_PRINTS = (SOLID, SOLID, *CLOTHS)
_QUIET = (SOLID, SOLID, SOLID, DOT, BORDER)
_CHECKS = (SOLID, GINGHAM, TARTAN, STRIPE, FLOWER)
_WARM = tuple(c for c in COLOURS if c.name in ("Red", "Wine", "Pink", "Orange", "Brown", "Beige", "Purple"))
_FUR = tuple(c for c in COLOURS if c.name in ("Beige", "Camel", "Brown", "White", "Pink", "Grey", "Mint", "Yellow"))
_SOBER = tuple(
    c for c in COLOURS if c.name in ("Black", "White", "Grey", "Navy", "Red", "Beige", "Mint", "Pink", "Blue")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A leaf category: its drawing, its words, its price range and its choices of look."""

    category: str
    draw: Callable[[Pen, Look], None]
    noun: Words
    variants: Mapping[str, Words]
    materials: Sequence[Words]
    price: tuple[int, int]  # JPY
    patterns: Sequence[Pattern] = (SOLID,)
    colours: Sequence[Colour] = field(default=COLOURS)
    stands: bool = True

    @property
    def department(self) -> str:
        return self.category.partition("/")[0]


LEAVES = (
    Leaf(
        category="fashion/tops/t-shirts", draw=clothes.t_shirt, noun=("T-Shirt", "Tシャツ"), stands=False,
        variants={"short-crew": ("Crew Neck", "クルーネック 半袖"), "short-v": ("V-Neck", "Vネック 半袖"),
                  "long-crew": ("Long Sleeve", "長袖 ロンT"), "short-logo": ("Box Logo", "ボックスロゴ 半袖")},
        materials=(_COTTON, ("Organic Cotton", "オーガニックコットン")), price=(980, 4900),
        patterns=(*_PRINTS, BORDER),
    ),
    Leaf(
        category="fashion/tops/shirts", draw=clothes.shirt, noun=("Shirt", "シャツ"), stands=False,
        variants={"plain": ("Long Sleeve", "長袖"), "short": ("Short Sleeve", "半袖"),
                  "denim": ("Work", "ワーク 長袖")},
        materials=(_COTTON, _LINEN), price=(1980, 8900), patterns=(*_PRINTS, *_CHECKS),
    ),
    Leaf(
        category="fashion/tops/hoodies", draw=clothes.hoodie, noun=("Hoodie", "パーカー"), stands=False,
        variants={"pullover": ("Pullover", "プルオーバー"), "zip": ("Zip-Up", "ジップアップ")},
        materials=(("Fleece", "裏起毛"), _COTTON), price=(2480, 9800), patterns=(SOLID, SOLID, BORDER, STAR),
    ),
    Leaf(
        category="fashion/dresses", draw=clothes.dress, noun=("Dress", "ワンピース"), stands=False,
        variants={"sleeveless": ("Sleeveless", "ノースリーブ"), "sleeved": ("Puff Sleeve", "パフスリーブ"),
                  "belted": ("Belted", "ベルト付き"), "maxi": ("Maxi", "ロング丈 マキシ")},
        materials=(_COTTON, ("Chiffon", "シフォン"), _LINEN), price=(2980, 15800), patterns=(*_PRINTS, FLOWER, DOT),
    ),
    Leaf(
        category="fashion/bottoms/skirts", draw=clothes.skirt, noun=("Skirt", "スカート"), stands=False,
        variants={"flared": ("Flared", "フレア"), "pleated": ("Pleated", "プリーツ"), "tight": ("Pencil", "タイト")},
        materials=(_COTTON, _WOOL), price=(1980, 8900), patterns=(*_PRINTS, TARTAN),
    ),
    Leaf(
        category="fashion/bottoms/trousers", draw=clothes.trousers, noun=("Trousers", "パンツ"), stands=False,
        variants={"slim": ("Slim Fit", "スリム"), "wide": ("Wide Leg", "ワイド"), "shorts": ("Short", "ショート丈")},
        materials=(("Denim", "デニム"), _COTTON, _LINEN), price=(1980, 12800),
        patterns=(SOLID, SOLID, SOLID, *_CHECKS),
    ),
    Leaf(
        category="fashion/shoes/sneakers", draw=accessories.sneaker, noun=("Sneakers", "スニーカー"),
        variants={"low": ("Low-Top", "ローカット"), "high": ("High-Top", "ハイカット")},
        materials=(_CANVAS, _LEATHER), price=(2980, 16800), patterns=_QUIET,
    ),
    Leaf(
        category="fashion/shoes/boots", draw=accessories.boot, noun=("Boots", "ブーツ"),
        variants={"long": ("Long", "ロング"), "laced": ("Lace-Up", "レースアップ"),
                  "sidegore": ("Chelsea", "サイドゴア"),
                  "belt": ("Buckle", "ベルト")},
        materials=(_LEATHER, ("Suede", "スエード")), price=(4900, 29800),
    ),
    Leaf(
        category="fashion/shoes/pumps", draw=accessories.pump, noun=("Pumps", "パンプス"),
        variants={"high": ("High Heel", "ハイヒール"), "low": ("Low Heel", "ローヒール"),
                  "ribbon": ("Bow", "リボン付き")},
        materials=(_LEATHER, ("Enamel", "エナメル")), price=(2980, 14800), patterns=_QUIET,
    ),
    Leaf(
        category="fashion/bags/handbags", draw=accessories.handbag, noun=("Handbag", "ハンドバッグ"),
        variants={"tote": ("Tote", "トート"), "flap": ("Flap", "フラップ"), "hand": ("Structured", "ボストン")},
        materials=(_LEATHER, _CANVAS), price=(2980, 34800), patterns=(SOLID, SOLID, *_PRINTS),
    ),
    Leaf(
        category="fashion/bags/backpacks", draw=accessories.backpack, noun=("Backpack", "リュックサック"),
        variants={"day": ("Daypack", "デイパック"), "outdoor": ("Outdoor", "アウトドア"),
                  "flap": ("Flap Top", "フラップ")},
        materials=(_NYLON, _CANVAS), price=(2980, 18800), patterns=(SOLID, SOLID, SOLID, *CLOTHS),
    ),
    Leaf(
        category="fashion/accessories/watches", draw=accessories.watch, noun=("Watch", "腕時計"), stands=False,
        variants={"leather": ("Leather Strap", "革ベルト"), "square": ("Square", "スクエア"),
                  "metal": ("Metal Band", "メタルバンド")},
        materials=(_STEEL, ("Sapphire Glass", "サファイアガラス")), price=(4980, 79800),
    ),
    Leaf(
        category="fashion/accessories/hats", draw=accessories.hat, noun=("Hat", "帽子"), stands=False,
        variants={"cap": ("Baseball Cap", "キャップ"), "straw": ("Straw", "麦わら ストローハット"),
                  "bucket": ("Brimmed", "ハット")},
        materials=(_COTTON, _WOOL), price=(1480, 7900), patterns=_PRINTS,
    ),
    Leaf(
        category="fashion/accessories/sunglasses", draw=accessories.sunglasses, noun=("Sunglasses", "サングラス"),
        stands=False,
        variants={"round": ("Round", "ラウンド"), "wellington": ("Wellington", "ウェリントン"),
                  "teardrop": ("Aviator", "ティアドロップ")},
        materials=(("UV400", "UVカット"), ("Polarised", "偏光レンズ")), price=(1480, 19800),
    ),
    Leaf(
        category="fashion/accessories/umbrellas", draw=accessories.umbrella, noun=("Umbrella", "傘"), stands=False,
        variants={"long": ("Long", "長傘"), "parasol": ("Parasol", "日傘 晴雨兼用")},
        materials=(("Water-Repellent", "撥水"), ("UV Cut", "遮光")), price=(1280, 6800), patterns=_PRINTS,
    ),
    Leaf(
        category="home/kitchen/mugs", draw=home.mug, noun=("Mug", "マグカップ"),
        variants={"plain": ("Straight", "ストレート"), "round": ("Rounded", "丸型"), "tall": ("Tall", "トール")},
        materials=(_CHINA, _MINO), price=(680, 3980), patterns=_PRINTS,
    ),
    Leaf(
        category="home/kitchen/teapots", draw=home.teapot, noun=("Teapot", "ティーポット"),
        variants={"pot": ("Classic", "洋風"), "kyusu": ("Kyusu", "急須")},
        materials=(_CHINA, ("Tokoname Ware", "常滑焼")), price=(1980, 9800),
        patterns=(SOLID, SOLID, FLOWER, DOT, TARTAN),
    ),
    Leaf(
        category="home/kitchen/bowls", draw=home.bowl, noun=("Bowl", "茶碗・どんぶり"),
        variants={"donburi": ("Donburi", "丼ぶり"), "rice": ("Rice", "飯碗"), "soup": ("Noodle", "めん鉢")},
        materials=(_MINO, ("Arita Ware", "有田焼")), price=(780, 4980), patterns=(SOLID, *CLOTHS),
    ),
    Leaf(
        category="home/lighting/lamps", draw=home.lamp, noun=("Lamp", "照明 ランプ"),
        variants={"table": ("Table", "テーブルランプ"), "wood": ("Bedside", "ベッドサイド 木製"),
                  "desk": ("Desk", "デスクライト")},
        materials=(("LED", "LED対応"), ("Dimmable", "調光")), price=(2980, 19800), patterns=(SOLID, SOLID, *_CHECKS),
    ),
    Leaf(
        category="home/lighting/pendants", draw=home.lamp, noun=("Pendant Light", "ペンダントライト"), stands=False,
        variants={"pendant": ("Dome", "ドーム型 天井照明")},
        materials=(("LED", "LED対応"), _STEEL), price=(3980, 24800), patterns=(SOLID, SOLID, STRIPE, BORDER),
    ),
    Leaf(
        category="home/furniture/chairs", draw=home.chair, noun=("Chair", "チェア 椅子"),
        variants={"dining": ("Dining", "ダイニング"), "stool": ("Stool", "スツール"),
                  "office": ("Office", "オフィス")},
        materials=(_OAK, _RUBBERWOOD), price=(3980, 39800), patterns=(SOLID, SOLID, *_CHECKS),
    ),
    Leaf(
        category="home/furniture/sofas", draw=home.sofa, noun=("Sofa", "ソファ"),
        variants={"two": ("Two-Seater", "2人掛け"), "three": ("Three-Seater", "3人掛け")},
        materials=(("Fabric", "ファブリック"), _LEATHER), price=(19800, 149800),
        patterns=(SOLID, SOLID, SOLID, STRIPE, FLOWER),
    ),
    Leaf(
        category="home/decor/cushions", draw=home.cushion, noun=("Cushion", "クッション"), stands=False,
        variants={"square": ("Square", "角型 45×45"), "round": ("Round", "丸型"), "button": ("Tufted", "ボタン留め")},
        materials=(_COTTON, _LINEN), price=(880, 4980), patterns=_PRINTS,
    ),
    Leaf(
        category="home/decor/clocks", draw=home.clock, noun=("Wall Clock", "掛け時計"), stands=False,
        variants={"round": ("Round", "丸型"), "square": ("Square", "角型"), "wood": ("Wooden", "木製")},
        materials=(("Silent", "静音"), ("Radio-Controlled", "電波時計")), price=(1980, 12800),
    ),
    Leaf(
        category="home/decor/vases", draw=home.vase, noun=("Vase", "花瓶 フラワーベース"),
        variants={"pot": ("Classic", "壺型"), "bottle": ("Bottle", "一輪挿し"), "cylinder": ("Cylinder", "円筒")},
        materials=(_CHINA, ("Glass", "ガラス")), price=(980, 9800), patterns=(SOLID, SOLID, *CLOTHS),
    ),
    Leaf(
        category="garden/plants", draw=home.plant, noun=("Houseplant", "観葉植物"),
        variants={"cactus": ("Cactus", "サボテン"), "monstera": ("Monstera", "モンステラ"),
                  "sansevieria": ("Sansevieria", "サンスベリア")},
        materials=(("Ceramic Pot", "陶器鉢"), ("Size 4 Pot", "4号鉢")), price=(980, 7980),
        patterns=(SOLID, SOLID, *CLOTHS),
    ),
    Leaf(
        category="food/sweets/cakes", draw=treats.cake, noun=("Cake", "ケーキ"),
        variants={"short": ("Strawberry Shortcake", "いちごショート"), "chocolate": ("Chocolate", "チョコレート"),
                  "roll": ("Roll", "ロール")},
        materials=(_GIFT, ("Hokkaido Cream", "北海道産生クリーム")), price=(680, 4980), colours=_SOBER,
    ),
    Leaf(
        category="food/sweets/doughnuts", draw=treats.doughnut, noun=("Doughnut", "ドーナツ"), stands=False,
        variants={"sprinkles": ("Sprinkle", "カラースプレー"), "chocolate": ("Chocolate", "チョコ"),
                  "stripes": ("Striped Icing", "アイシング")},
        materials=(("Box of 6", "6個入り"), _GIFT), price=(780, 3480), colours=(*_WARM, *_FUR),
    ),
    Leaf(
        category="food/sweets/macarons", draw=treats.macaron, noun=("Macarons", "マカロン"),
        variants={"three": ("Assorted", "3個入り"), "tower": ("Tower", "タワー"), "pair": ("Pair", "2個セット")},
        materials=(_GIFT, ("Almond", "アーモンド")), price=(580, 3980),
        colours=tuple(c for c in COLOURS if c.name not in ("Black", "Navy", "Grey", "Khaki")),
    ),
    Leaf(
        category="food/fruit", draw=treats.fruit, noun=("Fruit", "フルーツ 果物"),
        variants={"apple": ("Apple", "りんご 青森産"), "orange": ("Mandarin", "みかん 愛媛産"),
                  "melon": ("Musk Melon", "マスクメロン 静岡産")},
        materials=(("Box of 3 kg", "3kg 箱"), ("Grade A", "秀品")), price=(1980, 9800), colours=_WARM[:1],
    ),
    Leaf(
        category="food/drinks", draw=treats.bottle, noun=("Bottle", "ボトル"),
        variants={"wine": ("Wine", "ワイン 750ml"), "juice": ("Juice", "果汁100% ジュース"),
                  "sake": ("Sake", "日本酒 純米吟醸 720ml")},
        materials=(_GIFT, ("Limited", "数量限定")), price=(480, 9800),
    ),
    Leaf(
        category="beauty/lipsticks", draw=treats.lipstick, noun=("Lipstick", "口紅 リップ"),
        variants={"stick": ("Satin", "サテン"), "cap": ("Matte", "マット")},
        materials=(("Moisturising", "保湿"), ("Long-Lasting", "落ちにくい")), price=(880, 5800), colours=_WARM,
    ),
    Leaf(
        category="beauty/perfumes", draw=treats.perfume, noun=("Perfume", "香水"),
        variants={"square": ("Eau de Parfum", "オードパルファム"), "round": ("Eau de Toilette", "オードトワレ"),
                  "tall": ("Cologne", "コロン")},
        materials=(("50 ml", "50ml"), ("30 ml", "30ml")), price=(2980, 18800),
    ),
    Leaf(
        category="electronics/audio/headphones", draw=gadgets.headphones, noun=("Headphones", "ヘッドホン"),
        stands=False,
        variants={"over": ("Wireless Over-Ear", "ワイヤレス 密閉型"), "wired": ("Wired", "有線 モニター")},
        materials=(("Noise Cancelling", "ノイズキャンセリング"), ("Hi-Res", "ハイレゾ")), price=(2980, 44800),
        patterns=(SOLID, SOLID, SOLID, GINGHAM, DOT),
    ),
    Leaf(
        category="electronics/audio/earbuds", draw=gadgets.headphones, noun=("Earbuds", "イヤホン"), stands=False,
        variants={"earbuds": ("True Wireless", "完全ワイヤレス")},
        materials=(("Noise Cancelling", "ノイズキャンセリング"), ("Waterproof", "防水")), price=(2480, 34800),
        colours=_SOBER,
    ),
    Leaf(
        category="electronics/audio/speakers", draw=gadgets.speaker, noun=("Speaker", "スピーカー"),
        variants={"box": ("Bookshelf", "ブックシェルフ"), "tube": ("Portable Bluetooth", "Bluetooth ポータブル"),
                  "wood": ("Wooden", "木製")},
        materials=(("20 W", "20W"), ("Waterproof", "防水")), price=(2980, 59800),
    ),
    Leaf(
        category="electronics/cameras", draw=gadgets.camera, noun=("Camera", "カメラ"),
        variants={"compact": ("Compact", "コンパクト"), "mirrorless": ("Mirrorless", "ミラーレス一眼"),
                  "instant": ("Instant", "インスタント チェキ風")},
        materials=(("24 MP", "2400万画素"), ("4K Video", "4K動画")), price=(6980, 148000),
    ),
    Leaf(
        category="electronics/smartphones", draw=gadgets.phone, noun=("Smartphone", "スマートフォン"), stands=False,
        variants={"front": ("SIM-Free", "SIMフリー"), "back": ("Triple Camera", "トリプルカメラ")},
        materials=(("128 GB", "128GB"), ("256 GB", "256GB")), price=(19800, 149800),
    ),
    Leaf(
        category="electronics/keyboards", draw=gadgets.keyboard, noun=("Keyboard", "キーボード"), stands=False,
        variants={"full": ("Full-Size Mechanical", "メカニカル フルサイズ"),
                  "compact": ("Compact", "コンパクト テンキーレス")},
        materials=(_ALUMINIUM, _PLASTIC), price=(1980, 29800),
    ),
    Leaf(
        category="books", draw=gadgets.book, noun=("Book", "本"), stands=False,
        variants={"hard": ("Hardcover Novel", "小説 ハードカバー"), "paper": ("Paperback", "文庫"),
                  "picture": ("Picture Book", "絵本")},
        materials=(_PAPER, ("Illustrated", "イラスト付き")), price=(580, 3800), patterns=(SOLID, SOLID, *CLOTHS),
    ),
    Leaf(
        category="toys/plush", draw=gadgets.bear, noun=("Plush Toy", "ぬいぐるみ"),
        variants={"bear": ("Bow-Tie Bear", "くま リボン付き"), "plain": ("Bear", "テディベア"),
                  "rabbit": ("Rabbit", "うさぎ")},
        materials=(("Washable", "洗える"), ("Super Soft", "ふわふわ")), price=(980, 6980), colours=_FUR,
    ),
    Leaf(
        category="toys/vehicles", draw=gadgets.toy_car, noun=("Toy", "ミニカー おもちゃ"),
        variants={"car": ("Car", "乗用車"), "truck": ("Truck", "トラック"), "bus": ("Bus", "バス")},
        materials=(("Die-Cast", "ダイキャスト"), ("Wooden", "木製")), price=(680, 3980),
    ),
    Leaf(
        category="toys/blocks", draw=gadgets.blocks, noun=("Building Blocks", "積み木"),
        variants={"tower": ("Tower", "6ピース"), "castle": ("Castle", "お城")},
        materials=(_RUBBERWOOD, ("Beech", "ブナ材")), price=(1280, 6980),
    ),
    Leaf(
        category="sports/balls", draw=gadgets.ball, noun=("Ball", "ボール"),
        variants={"soccer": ("Football", "サッカー 5号"), "basket": ("Basketball", "バスケットボール 7号"),
                  "tennis": ("Tennis", "硬式テニス")},
        materials=(("Official Size", "公式サイズ"), ("Practice", "練習用")), price=(480, 6980),
    ),
    Leaf(
        category="sports/rackets", draw=gadgets.racket, noun=("Racket", "ラケット"), stands=False,
        variants={"tennis": ("Tennis", "硬式テニス"), "badminton": ("Badminton", "バドミントン シャトル付き")},
        materials=(("Carbon", "カーボン"), _ALUMINIUM), price=(2980, 29800),
    ),
    Leaf(
        category="sports/bicycles", draw=gadgets.bicycle, noun=("Bicycle", "自転車"),
        variants={"city": ("City", "シティサイクル かご付き"), "sport": ("Road", "ロードバイク")},
        materials=(_ALUMINIUM, ("Chromoly", "クロモリ")), price=(14800, 98000),
    ),
    Leaf(
        category="music/guitars", draw=gadgets.guitar, noun=("Guitar", "ギター"), stands=False,
        variants={"acoustic": ("Acoustic", "アコースティック"), "electric": ("Electric", "エレキ"),
                  "painted": ("Painted Acoustic", "カラー アコギ")},
        materials=(("Spruce Top", "スプルース単板"), ("Beginner Set", "初心者セット")), price=(9800, 98000),
    ),
)  # fmt: skip
