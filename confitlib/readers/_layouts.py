"""Column names of the released data sets, as their official configurations list them."""

from __future__ import annotations

from confitlib.corpus import Side

ALIYUN: dict[Side, dict[str, str]] = {  # src/config/aliyun.py of ConFit
    "resume": {
        "live_city_id": "居住城市",
        "desire_jd_city_id": "期望工作城市",
        "desire_jd_industry_id": "期望工作行业",
        "desire_jd_type_id": "期望工作类型",
        "desire_jd_salary_id": "期望薪资",
        "cur_industry_id": "当前工作行业",
        "cur_jd_type": "当前工作类型",
        "cur_salary_id": "当前薪资",
        "cur_degree_id": "学历",
        "birthday": "年龄",
        "start_work_date": "开始工作时间",
        "experience": "工作经验",
    },
    "job": {
        "jd_title": "工作名称",
        "city": "工作城市",
        "jd_sub_type": "工作类型",
        "require_nums": "招聘人数",
        "salary": "薪资",
        "start_date": "招聘开始时间",
        "end_date": "招聘结束时间",
        "is_travel": "是否要求出差",
        "min_years": "工作年限",
        "min_edu_level": "最低学历",
        "job_description": "工作描述",
    },
}
INTELLIPRO: dict[Side, list[str]] = {  # src/config/proprietary.py of ConFit
    "resume": [
        "education",
        "experiences",
        "location",
        "preferred_locations",
        "industry",
        "languages",
        "skills",
        "projects",
    ],
    "job": [
        "Job Title",
        "Job Description/Responsibilities",
        "Job Location",
        "Job Position Type",
        "Required Qualifications/Skills",
        "Preferred Qualifications/Skills",
        "Company Name",
        "Company Description",
        "Company Location",
    ],
}
LAYOUTS: dict[Side, list[list[str]]] = {
    "resume": [
        list(ALIYUN["resume"].values()),
        list(ALIYUN["resume"]),
        INTELLIPRO["resume"],
        ["text_resume"],  # recruiting_data_v2 of ConFit-v2
    ],
    "job": [list(ALIYUN["job"].values()), list(ALIYUN["job"]), INTELLIPRO["job"], ["text_job"]],
}


def unexpected_columns(side: Side, columns: list[str]) -> list[str]:
    """Columns that no official configuration would accept: unnamed ones, and additions to a known layout.

    The official scripts assert that every column is a configured field (src/preprocess/dataset.py).
    """
    known = next((layout for layout in LAYOUTS[side] if set(layout) <= set(columns)), columns)
    return [name for name in columns if name not in known or not name.strip() or name.startswith("Unnamed:")]
