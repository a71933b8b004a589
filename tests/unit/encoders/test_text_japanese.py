"""The text encoder on Japanese shop titles, with a few English ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from encoders.text import model as text_model
from encoders.text.train import train
from lookalike.vectors import normalised

_DRESS = "ワンピース"
_SHOES = "靴"
_TEA = "お茶"
PRODUCTS = [
    ("【送料無料】花柄 ロング ワンピース レディース 春夏 シフォン", _DRESS),
    ("★新作★ ニット ワンピース 長袖 秋冬 レディース 体型カバー", _DRESS),
    ("マキシ丈 ワンピース 半袖 リゾート 花柄 大きいサイズ", _DRESS),
    ("シャツワンピース 綿 麻 七分袖 ゆったり レディース【メール便可】", _DRESS),
    ("結婚式 ドレス ワンピース レース 袖あり 膝丈 フォーマル", _DRESS),
    ("Floral maxi dress ワンピース レディース summer long", _DRESS),
    ("ノースリーブ ワンピース Ａライン ミモレ丈 きれいめ 通勤", _DRESS),
    ("ﾏﾀﾆﾃｨ ワンピース 授乳服 半袖 ボーダー 綿", _DRESS),
    ("【あす楽】メンズ 革靴 ビジネスシューズ 本革 紐 黒 幅広 3E", _SHOES),
    ("スニーカー メンズ 靴 軽量 ランニングシューズ メッシュ 白", _SHOES),
    ("レディース パンプス 靴 痛くない 5cmヒール ポインテッドトゥ", _SHOES),
    ("running shoes 靴 スニーカー mens mesh 軽量 通気", _SHOES),
    ("キッズ 靴 スニーカー 子供 マジックテープ 運動会 軽量", _SHOES),
    ("本革 ローファー 靴 メンズ ビジネス 通勤 黒 茶", _SHOES),
    ("防水 ブーツ 靴 レディース ショート丈 滑らない 秋冬", _SHOES),
    ("サンダル 靴 レディース 厚底 夏 歩きやすい パンプス", _SHOES),
    ("宇治抹茶 緑茶 ティーバッグ 100g 国産 お茶 ポイント10倍", _TEA),
    ("静岡 深蒸し茶 煎茶 お茶 200g 3袋セット 茶葉 国産", _TEA),
    ("ほうじ茶 お茶 ティーバッグ 50包 国産 茶葉 ノンカフェイン", _TEA),
    ("緑茶 粉末 お茶 500g 業務用 静岡 給茶機", _TEA),
    ("玄米茶 抹茶入り お茶 200g 宇治 茶葉", _TEA),
    ("green tea お茶 煎茶 organic 茶葉 100g 国産", _TEA),
]


@pytest.fixture(scope="module", params=text_model.KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> text_model.TextModel:
    out: Path = tmp_path_factory.mktemp("japanese") / request.param
    train([title for title, _ in PRODUCTS], out, kind=request.param)
    return text_model.load(out)


def test_titles_are_nearer_to_titles_of_the_same_product_type(model: text_model.TextModel) -> None:
    vectors = model.encode([title for title, _ in PRODUCTS])
    kinds = np.array([kind for _, kind in PRODUCTS])
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, np.nan)
    for i, kind in enumerate(kinds):
        assert np.nanmean(scores[i, kinds == kind]) > np.nanmean(scores[i, kinds != kind]), PRODUCTS[i]
    np.fill_diagonal(scores, -2)
    assert (kinds[scores.argmax(axis=1)] == kinds).mean() >= 0.75  # By chance: a third.


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ("ワンピース", _DRESS),
        ("ﾜﾝﾋﾟｰｽ 花柄", _DRESS),
        ("【期間限定】★★ロング丈の花柄ワンピース★★", _DRESS),
        ("dress", _DRESS),
        ("メンズの革靴", _SHOES),
        ("スニーカー", _SHOES),
        ("煎茶の茶葉", _TEA),
        ("ｵ茶 ﾃｨｰﾊﾞｯｸﾞ", _TEA),
    ],
)
def test_a_query_finds_its_product_type(model: text_model.TextModel, query: str, kind: str) -> None:
    scores = model.encode([title for title, _ in PRODUCTS]) @ model.encode([query])[0]
    kinds = np.array([kind for _, kind in PRODUCTS])
    assert (kinds[np.argsort(-scores)[:3]] == kind).sum() >= 2


def test_words_of_an_unseen_script_change_a_vector_little(model: text_model.TextModel) -> None:
    plain, with_unseen_script = model.encode(["花柄 ワンピース", "花柄 ワンピース ქართული ტექსტი"])
    plain_topic, other_topic = normalised(np.stack([plain, with_unseen_script])[:, : model.topic_dim])
    assert plain_topic @ other_topic > 0.9
    assert plain @ with_unseen_script > 0.6  # Their letters are others.
    (unseen,) = model.encode(["ქართული ტექსტი"])
    assert not unseen[: model.topic_dim].any()
    assert unseen.any() == (model.kind == "hybrid")
