"""Bills as vendors export them: read as they are, or refused with the row that is not understood."""

from datetime import date

import pytest

from embedgate.core.errors import InvalidInput
from embedgate.govern.bills import BillLine, formats, read_export

DAY = date(2026, 11, 21)
EXPORTS = {
    "OpenAI usage export": (
        "start_time,end_time,start_time_iso,end_time_iso,num_model_requests,project_id,user_id,api_key_id,model,batch,"
        "input_tokens,output_tokens,input_cached_tokens\n"
        "1795219200,1795305600,2026-11-21T00:00:00+00:00,2026-11-22T00:00:00+00:00,3,proj_1,,,text-embedding-3-small,"
        "False,1204,0,0\n",
        BillLine(DAY, "text-embedding-3-small", 1204, None),
        {"num_model_requests", "output_tokens", "batch"},
        0,
    ),
    "OpenAI cost export": (
        "start_time,end_time,start_time_iso,end_time_iso,amount_value,amount_currency,line_item,project_id,"
        "organization_id\n"
        '1795219200,1795305600,,,0.00002408,usd,"text-embedding-3-small, input",proj_1,org_1\n',
        BillLine(DAY, "text-embedding-3-small", None, 24_080_000),
        {"project_id", "organization_id"},
        0,
    ),
    "Azure cost details": (
        "InvoiceSectionName,SubscriptionId,Date,MeterCategory,MeterSubCategory,MeterName,Quantity,UnitOfMeasure,"
        "CostInBillingCurrency,BillingCurrency\n"
        "sales,0-0,11/21/2026,Cognitive Services,Azure OpenAI,text-embedding-3-small Tokens,1.204,1K,0.00002408,USD\n"
        "sales,0-0,11/21/2026,Storage,Blob,Hot LRS Data Stored,7,1 GB/Month,0.2,USD\n",
        BillLine(DAY, "text-embedding-3-small", 1204, 24_080_000),
        {"InvoiceSectionName", "SubscriptionId", "MeterSubCategory"},
        1,
    ),
    "Google Cloud cost table": (
        "Invoice number,123\nInvoice date,2026-12-01\n\n"
        "Billing account name,Service description,SKU description,Usage start date,Usage amount,Usage unit,Cost ($)\n"
        "acme,Gemini API,gemini-embedding-001,2026-11-21,1204,count,0.00002408\n"
        "acme,Compute Engine,N1 core,2026-11-21,5,hour,1.00\n"
        ",,,,,Total,1.00002408\n",
        BillLine(DAY, "gemini-embedding-001", None, 24_080_000),
        {"Billing account name", "Usage amount", "Usage unit"},
        2,
    ),
    "Cohere usage table": (
        "Date;Model;Billed Tokens;Requests;Cost (USD)\n2026-11-21;embed-v4.0;1204;3;0,00002408\n",
        BillLine(DAY, "embed-v4.0", 1204, 24_080_000),
        {"Requests"},
        0,
    ),
    "Voyage usage table": (
        "DATE\tMODEL NAME\tTOTAL TOKENS\tREQUESTS\n2026-11-21\tvoyage-3.5\t1204\t3\n",
        BillLine(DAY, "voyage-3.5", 1204, None),
        {"REQUESTS"},
        0,
    ),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_is_read_as_it_is(name: str) -> None:
    text, line, not_read, passed_over = EXPORTS[name]
    read = read_export("\ufeff" + text.replace("\n", "\r\n"), "csv")
    assert (read.lines, read.read_as, read.passed_over) == ([line], name, passed_over)
    assert not_read <= set(read.not_read)


def test_every_export_that_is_known_has_a_test() -> None:
    assert {each.name for each in formats()} == set(EXPORTS)


@pytest.mark.parametrize("cut", [",", ";", "\t"])
def test_a_table_of_ones_own_may_have_capitals_and_any_cut(cut: str) -> None:
    text = "Date|MODEL|Tokens|Note\n2026-11-21|m|1204|x\n".replace("|", cut)
    read = read_export(text, "csv")
    assert (read.lines, read.read_as, read.not_read) == ([BillLine(DAY, "m", 1204, None)], "", ("Note",))


def test_answers_of_the_usage_api_are_read() -> None:
    usage = (
        '{"object":"page","data":[{"object":"bucket","start_time":1795219200,"end_time":1795305600,"results":[{"object":'
        '"organization.usage.embeddings.result","input_tokens":1204,"num_model_requests":3,"model":"m"}]}]}'
    )
    assert read_export(usage, "json").lines == [BillLine(DAY, "m", 1204, None)]
    costs = (
        '{"object":"page","data":[{"object":"bucket","start_time":1795219200,"results":[{"amount":{"value":0.00002408,'
        '"currency":"usd"},"line_item":"m, input"}]}]}'
    )
    assert read_export(costs, "json").lines == [BillLine(DAY, "m", None, 24_080_000)]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Date;Model;Tokens\n2026-11-21;m;1.204\n", "whole number"),
        ("Date;Model;Tokens\n2026-11-21;m;1,204\n", "Row 1 of the bill has '1,204' for tokens"),
        ("Date;Model;Cost_USD\n2026-11-21;m;1.204,50\n", "has '1.204,50' for cost_usd"),
        ("date,Date,model,tokens\n2026-11-21,2026-11-22,m,1\n", "2 times"),
        (EXPORTS["Azure cost details"][0].replace("USD", "EUR"), "is in 'EUR'"),
        (EXPORTS["Azure cost details"][0].replace(",1K,", ",1 Hour,"), "the unit '1 Hour'"),
        (EXPORTS["Azure cost details"][0].replace("11/21/2026", "21/11/2026"), "has the date '21/11/2026'"),
        (EXPORTS["OpenAI usage export"][0].replace("text-embedding-3-small", ""), "has no model"),
        (EXPORTS["Google Cloud cost table"][0].replace("Gemini API", "Maps API"), "no rows"),
        ("what,ever\n1,2\n", "Give the columns date"),
        ("Date;Model;Tokens\n2026-11-21;m;1e9999999\n", "has '1e9999999' for tokens"),
        ("Date;Model;Cost_USD\n2026-11-21;m;-1e9999999\n", "has '-1e9999999' for cost_usd"),
    ],
)
def test_what_is_not_understood_is_refused(text: str, fault: str) -> None:
    with pytest.raises(InvalidInput, match=fault):
        read_export(text, "csv")
