"""The text encoder on 36 made-up Japanese titles: 12 products in the style of three shops each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from encoders.text import model as text_model
from encoders.text.tokens import Tokenizer
from encoders.text.train import train

PRODUCTS = {
    "headphones": [
        "【送料無料】SONY ソニー ワイヤレスヘッドホン WH-1000XM5 ブラック ノイズキャンセリング",
        "ソニー WH1000XM5 ﾜｲﾔﾚｽ ﾉｲｽﾞｷｬﾝｾﾘﾝｸﾞ ﾍｯﾄﾞﾎﾝ 黒 税込49,500円",
        "★期間限定★ ＳＯＮＹ ＷＨ－１０００ＸＭ５ ワイヤレス ヘッドホン🎧 ポイント10倍",
    ],
    "refrigerator": [
        "＼最大P10倍／ パナソニック 冷蔵庫 NR-F609HPX-W 600L 6ドア フレンチドア",
        "Panasonic パナソニック ＮＲ－Ｆ６０９ＨＰＸ 6ドア冷蔵庫 ホワイト 298,000円(税込)",
        "<b>パナソニック 大型冷蔵庫</b> NRF609HPX フレンチドア 600L【配送設置】",
    ],
    "vacuum": [
        "ダイソン V12 Detect Slim Fluffy SV46FF コードレス掃除機【正規品】",
        "ﾀﾞｲｿﾝ 掃除機 コードレス V12 SV46FF 30%OFF",
        "dyson ダイソン コードレスクリーナー 掃除機 Ｖ１２ ＳＶ４６ＦＦ レビューで特典",
    ],
    "rice": [
        "【半額】【あす楽】米 5kg コシヒカリ 新潟県産 令和5年産 お米",
        "新潟県産コシヒカリ 精米 お米 5㎏ 送料込",
        "ｺｼﾋｶﾘ 白米 新潟 お米 ５ｋｇ クーポン利用で1,980円！",
    ],
    "wallet": [
        "本革 長財布 メンズ ラウンドファスナー 牛革 大容量【ラッピング無料】",
        "<p>メンズ&nbsp;長財布<br>本革 牛革</p> 楽天1位 カード 大容量",
        "長財布 ﾒﾝｽﾞ 本革 ﾗｳﾝﾄﾞﾌｧｽﾅｰ 財布 累計10万個突破",
    ],
    "towel": [
        "即納 今治タオル バスタオル 5枚セット 60×120cm 綿100% 日本製",
        "【P5倍】今治 バスタオル ５枚組 ｺｯﾄﾝ 吸水 タオル 日本製",
        "★新生活★ 今治タオル 吸水バスタオル 5枚 まとめ買い 綿",
    ],
    "dress": [
        "【期間限定】花柄 ロングワンピース レディース シフォン 春夏 2,980円→1,480円",
        "花柄ワンピース マキシ丈 シフォン レディース ﾛﾝｸﾞ 大きいサイズ",
        "🌸花柄シフォンワンピース🌸 ロング丈 長袖 レディース メール便可",
    ],
    "apron": [
        "母の日 エプロン 花束柄 撥水 H型 保育士 キッチン ギフト",
        "エプロン 保育士 Ｈ型 撥水加工 かわいい キッチン エプロン【ネコポス対応】",
        "ｴﾌﾟﾛﾝ 撥水 H型 ポケット付き 保育士さんに人気 キッチン用品",
    ],
    "shampoo": [
        "(まとめ買い) 【2個セット】 ボタニカル シャンプー 詰め替え 400ml",
        "ボタニカルシャンプー 詰替用 400mL×2 ノンシリコン しっとり",
        "ﾎﾞﾀﾆｶﾙ ｼｬﾝﾌﾟｰ つめかえ ４００ｍｌ 在庫あり 税抜980円",
    ],
    "tent": [
        "ワンタッチテント 4人用 UVカット 防水 キャンプ アウトドア 収納袋付き",
        "キャンプ テント ワンタッチ ４人用 防水 ＵＶカット 【数量限定】",
        "〇倍 ワンタッチ テント 簡単設営 4人 アウトドア キャンプ用品 送料無料",
    ],
    "tea": [
        "宇治抹茶入り 緑茶 ティーバッグ 50包 国産茶葉 水出し",
        "緑茶 ﾃｨｰﾊﾞｯｸﾞ 宇治抹茶 お茶 水出し可 50個 業務用 ランキング1位",
        "【最短翌日】お茶 緑茶ティーバッグ 宇治 抹茶入 国産 50P",
    ],
    "desk": [
        "パソコンデスク 幅120cm 奥行60cm 昇降式 電動 テレワーク 机",
        "電動昇降デスク 幅１２０ｃｍ スタンディングデスク 机 在宅勤務 代引不可",
        "昇降デスク 電動 机 ﾊﾟｿｺﾝﾃﾞｽｸ テレワーク 120×60㎝ 返品不可",
    ],
}
TITLES = [title for titles in PRODUCTS.values() for title in titles]
PRODUCT_OF_TITLE = np.array([name for name, titles in PRODUCTS.items() for _ in titles])


@pytest.fixture(scope="module", params=text_model.KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> text_model.TextModel:
    out: Path = tmp_path_factory.mktemp("shops") / request.param
    train(TITLES, out, kind=request.param)
    return text_model.load(out)


def test_the_nearest_title_is_of_the_same_product_in_another_shop(model: text_model.TextModel) -> None:
    vectors = model.encode(TITLES)
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -2)
    wrong = [
        f"{TITLES[i]} -> {TITLES[j]}"
        for i, j in enumerate(scores.argmax(axis=1))
        if PRODUCT_OF_TITLE[i] != PRODUCT_OF_TITLE[j]
    ]
    assert not wrong


def test_titles_of_a_product_are_nearer_to_each_other_than_to_other_products(model: text_model.TextModel) -> None:
    vectors = model.encode(TITLES)
    nearest = np.argsort(-(vectors @ vectors.T), axis=1)[:, :3]  # The title itself, and the two others of its product.
    assert (PRODUCT_OF_TITLE[nearest] == PRODUCT_OF_TITLE[:, None]).mean() > 0.95


@pytest.mark.parametrize(
    ("query", "product"),
    [
        ("wh1000xm5", "headphones"),
        ("ソニーのヘッドホン WH-1000XM5 送料無料", "headphones"),
        ("NR-F609HPX", "refrigerator"),
        ("ﾊﾟﾅｿﾆｯｸ 冷蔵庫", "refrigerator"),
        ("コードレス掃除機 SV46FF", "vacuum"),
        ("新潟のお米 5kg", "rice"),
        ("メンズ 牛革の財布", "wallet"),
        ("今治のタオル", "towel"),
        ("★☆ロング丈の花柄ワンピース☆★ 3,980円", "dress"),
        ("保育士さんのエプロン", "apron"),
        ("詰め替えシャンプー", "shampoo"),
        ("キャンプ用テント 4人", "tent"),
        ("&lt;b&gt;抹茶入りの緑茶&lt;/b&gt;", "tea"),
        ("電動の机", "desk"),
        ("ヘッドフォン ソニー", "headphones"),  # No title has this spelling.
    ],
)
def test_a_query_finds_its_product(model: text_model.TextModel, query: str, product: str) -> None:
    scores = model.encode(TITLES) @ model.encode([query])[0]
    assert PRODUCT_OF_TITLE[scores.argmax()] == product


NOTICES = [
    "【送料無料】{}",
    "★{}★",
    "🎉{}🎉 クーポン配布中",
    "{} ポイント10倍",
    "{} 税込3,980円",
    "＼最大P10倍／{}【あす楽】",
    "<b>{}</b><br/>",
    "{} 2,980円→1,480円 30%OFF",
    "【期間限定】【半額】{} タイムセール中",
    "{} 累計10万個突破 楽天1位",
]


@pytest.mark.parametrize("notice", NOTICES)
@pytest.mark.parametrize("title", ["花柄ワンピース", "ソニー WH-1000XM5", "お米 5kg"])
def test_shop_notices_around_a_title_leave_its_words_unchanged(notice: str, title: str) -> None:
    tokenize = Tokenizer()
    assert tokenize(notice.format(title)) == tokenize(title) != []
