"""The sources of images: one file per source, and one table that everything else reads."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..split import ReadOptions, Split
from .chexpert import is_chexpert, open_chexpert
from .chexpert_plus import is_chexpert_plus, open_chexpert_plus
from .covid_radiography import is_covid_radiography, open_covid_radiography
from .covidx import is_covidx, open_covidx
from .digits import is_digits, open_digits
from .folder import has_abnormal_training, is_zhanglab, open_folder
from .medianomaly import is_medianomaly, open_medianomaly
from .mimic_cxr import is_mimic_cxr, open_mimic_cxr
from .mvtec import is_mvtec, open_mvtec
from .nih import is_nih, open_nih
from .nlm_tuberculosis import is_nlm_tuberculosis, open_nlm_tuberculosis
from .own_list import is_list, open_list
from .padchest import is_padchest, open_padchest
from .rsna import is_rsna, open_rsna
from .shards import is_sharded, open_shards
from .vinbigdata import is_vinbigdata, open_vinbigdata
from .vindr import is_vindr, open_vindr


@dataclass(frozen=True)
class Source:
    """One source of images.

    Attributes:
        name: a source with a description is recorded in a run's config.json by this name.
        recognize: function of the data's path that returns whether the data is from this source. The path is a folder
            that exists. The first two entries of `SOURCES` also get others: None for DigitAnatomy, and a list's file.
        open: function of the path and `ReadOptions` that returns a dict of split name to Split.
        description: what the images show, for a report; None if that is not known.
        ages: lowest and highest age of the patients in years, for files without ages; or None.
        has_abnormal_training: function of the path that returns whether there are abnormal training images beside the
            normal ones, as contamination needs them.
        has_parts: images lie in folders inside of its folder, which are not to be read as plain folders; and it is
            recognized by its own folder alone, not by one that lies deeper.
    """

    name: str
    recognize: Callable[[Any], bool]
    open: Callable[[Any, ReadOptions], dict[str, Split]]
    description: str | None = None
    ages: tuple[float, float] | None = None
    has_abnormal_training: Callable[[Any], bool] = lambda path: False
    has_parts: bool = False


# In order of recognition: the last one takes every folder.
SOURCES = (
    Source(
        "digits",
        is_digits,
        open_digits,
        "no X-rays: DigitAnatomy, drawn digits in the place of anatomy",
        has_abnormal_training=lambda path: True,
    ),
    Source("list", is_list, open_list),
    Source("shards", is_sharded, open_shards),
    Source(
        "mimic-cxr",
        is_mimic_cxr,
        open_mimic_cxr,
        "frontal chest X-rays, PA and AP, of MIMIC-CXR-JPG, from one hospital (Beth Israel Deaconess; Johnson et al. "
        "2019)",
        has_parts=True,
    ),
    Source(
        "padchest",
        is_padchest,
        open_padchest,
        "frontal PA chest X-rays of PadChest, from one hospital (San Juan de Alicante; Bustos et al. 2020)",
        has_parts=True,
    ),
    Source(
        "chexpert-plus",
        is_chexpert_plus,
        open_chexpert_plus,
        "frontal PA chest X-rays of CheXpert Plus, from one hospital (Stanford; Chambon et al. 2024)",
    ),
    Source(
        "chexpert",
        is_chexpert,
        open_chexpert,
        "frontal PA chest X-rays of CheXpert, from one hospital (Stanford; Irvin et al. 2019)",
    ),
    Source(
        "nih",
        is_nih,
        open_nih,
        "frontal PA chest X-rays of NIH ChestX-ray14, from one hospital (NIH Clinical Center; Wang et al. 2017)",
        has_parts=True,
    ),
    Source(
        "rsna",
        is_rsna,
        open_rsna,
        "frontal chest X-rays of the RSNA Pneumonia Detection Challenge, from one hospital (NIH Clinical Center; "
        "Shih et al. 2019)",
        has_parts=True,
    ),
    Source(
        "vindr",
        is_vindr,
        open_vindr,
        "frontal PA chest X-rays of VinDr-CXR, from two hospitals (Hanoi; Nguyen et al. 2022)",
        has_parts=True,
    ),
    Source(
        "vinbigdata",
        is_vinbigdata,
        open_vinbigdata,
        "frontal PA chest X-rays of VinBigData's challenge, from two hospitals (Hanoi; Nguyen et al. 2022)",
        has_parts=True,
    ),
    Source(
        "covidx",
        is_covidx,
        open_covidx,
        "chest X-rays of COVIDx, which is put together from several public collections (Wang et al. 2020)",
    ),
    Source(
        "covid-radiography",
        is_covid_radiography,
        open_covid_radiography,
        "chest X-rays of the COVID-19 Radiography Database, which is put together from several public collections "
        "(Chowdhury et al. 2020, Rahman et al. 2021)",
        has_parts=True,
    ),
    Source(
        "nlm-tuberculosis",
        is_nlm_tuberculosis,
        open_nlm_tuberculosis,
        "frontal chest X-rays of a tuberculosis set of the U.S. National Library of Medicine, from Shenzhen or "
        "Montgomery County (Jaeger et al. 2014)",
    ),
    Source(
        "medianomaly",
        is_medianomaly,
        open_medianomaly,
        "frontal chest X-rays of the RSNA or the VinBigData challenge, as Cai et al. split them (DDAD 2022, "
        "MedIAnomaly 2024)",
        has_parts=True,
    ),
    Source("mvtec", is_mvtec, open_mvtec),
    Source(
        "zhanglab",
        is_zhanglab,
        open_folder,
        "chest X-rays of children of one to five years, from one hospital (Guangzhou Women and Children's "
        "Medical Center; Kermany et al. 2018), recognized by their file names",
        ages=(1.0, 5.99),  # Kermany et al. 2018: children of one to five
        has_abnormal_training=has_abnormal_training,
    ),
    Source("folder", lambda path: True, open_folder, has_abnormal_training=has_abnormal_training),
)


def source_of(path: Path | None) -> Source:
    """Return the first source that recognizes what is at a path: an existing folder or list, or None."""
    return next(source for source in SOURCES if source.recognize(path))


def describe_source(name: str | None) -> str | None:
    """Return what the images of a source show, by the name that a run records; None where that is not known."""
    return next((source.description for source in SOURCES if source.name == name), None)
